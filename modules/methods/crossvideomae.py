"""CrossVideoMAE: masked autoencoders of a clip and of one of its frames, whose features must agree.

Paper: CrossVideoMAE, https://arxiv.org/abs/2502.07811. Each sample is a clip, an augmented copy of it, and a single frame
sampled from it. The video branch is VideoMAE with 95 % of the tokens hidden, the image branch MAE on the frame with 90 % of its
patches hidden; both predict the pixels of what they do not see. Features of visible tokens are contrasted (NT-Xent): those of
the clip with those of its augmented copy (intra-modal), and those of both with those of the frame (cross-modal), so that the
video encoder takes over what the image encoder knows. The encoder of the video branch is kept.

    loss = prediction of the clip + prediction of the frame
         + intra: NT-Xent(clip, copy), of the complete clips and of the time slice of the frame
         + cross: NT-Xent(mean of clip and copy, frame), of the complete clips and of the time slice of the frame

Shapes for ViT-B at 16 x 224 x 224: 1568 tokens per clip, 80 visible, prediction [B, 1488, 1536]; 196 patches per frame, 19
visible, prediction [B, 177, 768]; five projections [B, 256].

Re-created: no code was published, and the details of the paper could not be verified, not even the masking ratios and the use
of VideoMAE's recipe. Everything below is our choice:

* a feature is the mean of visible tokens after the final norm; of the frame level, the mean of those of the slice that contains
  the sampled frame, so that negatives are other clips only, at both levels;
* one projection (linear, ReLU, linear, with 256 values) for both levels of the video branch, and one for the image branch,
  whose feature is compared at both levels; its class token is not part of the feature;
* NT-Xent is SimCLR's with temperature 0.07, the mean over both directions; negatives are from all processes; all terms have
  weight 1;
* the augmented copy shows the same frames and places, mirrored or not, with the colours and the blur of `PairAugmentation`, and
  has a separate mask; only the original clip is reconstructed;
* the image branch is trained with the same rate; its decoder is MAE's (512 wide, 8 blocks), with fixed position codes.

In validation, each process only compares its own clips. With gradient accumulation, negatives are those of one of the
accumulated batches. Several clips of one video are different samples, and negatives of each other.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.augment.clip_pairs import PairAugmentation
from modules.augment.flips import RandomFlip
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.blocks import init_blocks, layer_norm, make_blocks
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.positions import sincos_positions_2d
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Preparation
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.output import StepOutput
from modules.core.run import run_of
from modules.core.tokens import gather_tokens
from modules.layers.drawing.clips import BORROWED, hide_tokens, mark_frames, masked_pictures
from modules.layers.heads import ProjectionHead
from modules.layers.masked_autoencoder import MaskedAutoencoder
from modules.layers.siamese_mae import kept_patches, start_as_mae
from modules.layers.targets import InputPixelTarget, Target, constant_loss
from modules.losses.contrast import PairContrast, pair_contrast, unit_rows
from modules.losses.video_text import gather_rows_with_gradient
from modules.masks.base import MaskGenerator
from modules.training.optim import AdamWSettings


@dataclass
class ImageBranch:
    """The masked autoencoder of the sampled frame.

    Args:
        mask_ratio: fraction of masked patches; floor((1 - ratio) * patches) remain visible.
        normalise: standardise each predicted patch by its own mean and standard deviation, over all pixels and channels.
        decoder_depth: blocks of the decoder.
        decoder_dim: width of the decoder.
        decoder_heads: its attention heads.
    """

    mask_ratio: float = 0.9
    normalise: bool = True
    decoder_depth: int = 8
    decoder_dim: int = 512
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        check_range("model.image", 0, 1, mask_ratio=self.mask_ratio)
        sizes = {"decoder_depth": self.decoder_depth, "decoder_dim": self.decoder_dim, "decoder_heads": self.decoder_heads}
        check_positive("model.image", **sizes)
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise SettingError(
                f"model.image.decoder_dim is {self.decoder_dim}, which must be a multiple of model.image.decoder_heads "
                f"({self.decoder_heads}) and, for the position codes, of 4; change one of them."
            )


@dataclass
class AgreementSettings:
    """The contrast of clips, augmented clips and frames. All values are unverified.

    Args:
        dim: length of the compared vectors, and of those between the projections' layers.
        temperature: divisor of the cosine similarities.
        intra: weight of the contrast of clips with augmented clips.
        cross: weight of the contrast of clips with frames.
    """

    dim: int = 256
    temperature: float = 0.07
    intra: float = 1.0
    cross: float = 1.0

    def __post_init__(self) -> None:
        check_positive("model.agreement", dim=self.dim, temperature=self.temperature)
        check_range("model.agreement", 0, intra=self.intra, cross=self.cross)


class ImageDecoder(nn.Module):
    """Decoder of MAE (https://arxiv.org/abs/2111.06377): predicts the masked patches of an image from the encoded ones.

    Args:
        encoder: encoder of the image; it defines the grid of patches.
        out_dim: width of a prediction.
        settings: size of the decoder.
    """

    positions: Tensor

    def __init__(self, encoder: FrameTower, out_dim: int, settings: ImageBranch) -> None:
        super().__init__()
        dim = settings.decoder_dim
        self.embed = nn.Linear(encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos_positions_2d(encoder.grid.h, encoder.grid.w, dim), persistent=False)
        self.blocks = make_blocks(dim, settings.decoder_heads, 4.0, [0.0] * settings.decoder_depth, False)
        self.norm = layer_norm(dim)
        self.head = nn.Linear(dim, out_dim)
        init_blocks(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def compiled_parts(self) -> list[nn.Module]:
        """Modules to compile: the blocks."""
        return list(self.blocks)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters."""
        return {"mask_token"}

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predict masked patches.

        Args:
            tokens: [B, prefix + Nv, De], encoded class token, which has no position, and visible patches.
            visible: int64 [B, Nv], the indices of the latter.
            masked: int64 [B, Nm], patches to predict.

        Returns:
            [B, Nm, out_dim] in the order of `masked`.
        """
        positions = self.positions.expand(len(tokens), -1, -1)
        prefix, seen = self.embed(tokens).split([tokens.shape[1] - visible.shape[1], visible.shape[1]], 1)
        hidden = self.mask_token + gather_tokens(positions, masked)
        sequence = torch.cat([prefix, seen + gather_tokens(positions, visible), hidden.to(seen.dtype)], 1)
        for block in self.blocks:
            sequence = block(sequence)
        result: Tensor = self.head(self.norm(sequence[:, tokens.shape[1] :]))
        return result


class CrossVideoMAE(MaskedAutoencoder):
    """Masked autoencoders of clips and of single frames with contrast between both (https://arxiv.org/abs/2502.07811).

    Args:
        backbone: encoder of the video branch, kept after pretraining.
        image_backbone: encoder of the image branch; FrameTower with MAE's weights, on one frame.
        target: what the video branch predicts; PixelTarget as in VideoMAE.
        mask: which tokens of clips are hidden; TubeMask with ratio 0.95. Each slice must have visible tokens.
        decoder: size of the video branch's decoder.
        image: mask and decoder of the image branch.
        agreement: the contrast.
        augmentation: colours and blur of augmented clips; they are those of the second clips of pairs.
        optim: optimiser and schedule.
        flip: probability of mirroring an augmented clip; null takes one half, or 0 if classes of the data distinguish left and
            right.

    Raises:
        SettingError: if target, mask or image encoder do not fit the clips.
    """

    def __init__(
        self,
        backbone: VideoViT,
        image_backbone: FrameTower,
        target: Target,
        mask: MaskGenerator,
        decoder: DecoderSettings = DecoderSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        image: ImageBranch = ImageBranch(),  # noqa: B008
        agreement: AgreementSettings = AgreementSettings(),  # noqa: B008
        augmentation: PairAugmentation = PairAugmentation(form="paper"),  # noqa: B008
        optim: AdamWSettings = AdamWSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(backbone, target, mask, optim)
        if not mask.per_slice:
            raise SettingError(
                f"model.mask is {type(mask).__name__}, with which a slice of tokens may have no visible one, but all slices "
                "need a feature; set it to TubeMask, or to RandomMask with per_slice true."
            )
        if image_backbone.image_size != backbone.image_size or image_backbone.num_frames != 1:
            raise SettingError(
                f"model.image_backbone takes {image_backbone.num_frames} frames of {image_backbone.image_size} px, but should "
                f"take one of {backbone.image_size} px; set its num_frames to 1 and its image_size to that of model.backbone."
            )
        vit = image_backbone.vit
        if vit.cls_token is None or vit.pos_embed is None or vit.no_embed_class:
            raise SettingError(
                f"model.image_backbone.name {image_backbone.name} has no class token with a position code; choose another, "
                "such as that of MAE."
            )
        self.image_backbone, self.image = image_backbone, image
        self.image_visible = kept_patches(image_backbone.grid.tokens, image.mask_ratio)
        if not 0 < self.image_visible < image_backbone.grid.tokens:
            raise SettingError(
                f"model.image.mask_ratio {image.mask_ratio} leaves {self.image_visible} of {image_backbone.grid.tokens} "
                "patches visible; change it, so that at least one is visible and one masked."
            )
        start_as_mae(image_backbone)
        self.agreement, self.augmentation = agreement, augmentation
        self.flip = RandomFlip("model.flip", flip)
        self.video_projection = ProjectionHead(backbone.embed_dim, agreement.dim, agreement.dim)
        self.image_projection = ProjectionHead(image_backbone.embed_dim, agreement.dim, agreement.dim)
        self.image_target = InputPixelTarget(image.normalise)
        self.image_decoder = ImageDecoder(image_backbone, self.image_target.dim(image_backbone.grid), image)
        self.build_decoder(decoder)

    def encoders(self) -> dict[str, nn.Module]:
        """`backbone`, and `image_backbone`, which sees all frames of a clip separately."""
        return super().encoders() | {"image_backbone": self.image_backbone}

    def on_fit_start(self) -> None:
        """Warn if there is nothing to contrast with."""
        super().on_fit_start()
        data = run_of(self.trainer).datamodule
        if hasattr(data, "batch_size") and self.samples_per_batch(data) * self.trainer.world_size < 2:
            rank_zero_warn("A batch is a single clip, so CrossVideoMAE's contrast is 0; set data.batch_size to 2 or more.")

    # --- Step ---

    def preparation(self) -> Preparation:
        """Colours and blur are drawn in the loader workers; see `Method.preparation`."""
        return partial(self.augmentation.prepare_copies, self.stream, self.seed)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Augment, mask, encode, decode, compare. Videos are [B, V, T, H, W, 3]; each clip counts as a sample."""
        clip = self.inputs(batch).flatten(0, 1)
        count, frames = clip.shape[:2]
        looks = batch.prepared or self.augmentation.draw(count, generator)[1]
        augmented = self.augmentation(self.flip(clip, generator), looks).round().byte()
        frame = torch.randint(frames, (count,), generator=generator, device=clip.device)

        # Both clips go through the encoder at once.
        mask, other = self.draw_mask(count, generator), self.draw_mask(count, generator)
        visible = torch.cat([mask.visible, other.visible])
        tokens = self.encode(torch.cat([clip, augmented]), visible)
        target = self.targets(clip, mask.targets)
        prediction = self.decoder(tokens[:count], mask.visible, mask.targets)

        picture = clip[torch.arange(count, device=clip.device), frame][:, None]
        found = self.rebuild(picture, generator)

        time_slice = (frame // self.backbone.grid.tubelet).repeat(2)
        projected = torch.stack(
            [self.video_projection(tokens.mean(1)), self.video_projection(self.at(tokens, visible, time_slice))]
        )
        seen = self.image_projection(found["tokens"].mean(1))
        parts = self.agree(projected.unflatten(1, (2, -1)), seen)

        losses = {"video": F.mse_loss(prediction.float(), target), "image": found["loss"]}
        losses |= {name: one.losses.mean() / 2 for name, one in parts.items()}
        agreement = self.agreement
        intra, cross = (losses[f"{kind}_clip"] + losses[f"{kind}_frame"] for kind in ("intra", "cross"))
        log = {f"{name}_loss": value.detach() for name, value in losses.items()}
        log |= {f"{name}_top1": one.top1.mean() for name, one in parts.items()}
        log |= {"constant_loss": constant_loss(target), "constant_image_loss": constant_loss(found["target"])}
        return {
            "loss": losses["video"] + losses["image"] + agreement.intra * intra + agreement.cross * cross,
            "log": log,
            "show": {
                "clip": clip,
                "masked": mask.targets,
                "prediction": prediction.detach(),
                "target": target,
                "augmented": augmented,
                "augmented_masked": other.targets,
                "frame": frame,
                "picture": picture,
                "image_masked": found["masked"],
                "image_prediction": found["prediction"].detach(),
                "image_target": found["target"],
            },
        }

    def rebuild(self, picture: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Mask, encode and predict single frames.

        Args:
            picture: uint8 [B, 1, H, W, 3]
            generator: source of the masks.

        Returns:
            the `loss`; encoded `tokens` [B, Nv, D] of visible patches; `masked` patches int64 [B, Nm]; their `prediction` and
            `target` [B, Nm, 3 * P].
        """
        network = self.image_backbone
        grid, split = network.grid, self.image_visible
        noise = torch.rand(len(picture), grid.tokens, generator=generator, device=picture.device)
        visible, masked = noise.argsort(1).split([split, grid.tokens - split], 1)
        images = network.preprocess(picture)[:, :, 0]
        tokens = network.encode_frames(images, visible)
        prediction = self.image_decoder(tokens, visible, masked)
        target = self.image_target.of_tokens(picture, masked, grid, network.normalisation)
        return {
            "loss": F.mse_loss(prediction.float(), target),
            "tokens": tokens[:, network.vit.num_prefix_tokens :],
            "masked": masked,
            "prediction": prediction,
            "target": target,
        }

    def at(self, tokens: Tensor, visible: Tensor, time_slice: Tensor) -> Tensor:
        """Mean of the visible tokens of one slice of each clip.

        Args:
            tokens: [B, Nv, D]
            visible: int64 [B, Nv], their indices.
            time_slice: int64 [B], the slice.

        Returns:
            float32 [B, D]
        """
        inside = (visible // self.backbone.grid.slice_tokens == time_slice[:, None]).float()
        return (tokens.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)

    def agree(self, video: Tensor, image: Tensor) -> dict[str, PairContrast]:
        """Contrast of clips, augmented clips and frames with those of other samples, over all processes.

        Args:
            video: [2, 2, B, D], projections of the level (clip, frame), of original and augmented clips.
            image: [B, D], projections of sampled frames.

        Returns:
            `intra_clip`, `cross_clip`, `intra_frame` and `cross_frame`.
        """
        rows = unit_rows(torch.cat([video.flatten(0, 1), image[None]]).flatten(0, 1)).unflatten(0, (5, -1)).transpose(0, 1)
        # In validation, processes may have different numbers of clips, so each compares only its own.
        everyone = (gather_rows_with_gradient(rows) if self.training else rows).unbind(1)
        found, temperature = {}, self.agreement.temperature
        for level, original, augmented in (("clip", *everyone[:2]), ("frame", *everyone[2:4])):
            both = unit_rows((original + augmented) / 2)
            found[f"intra_{level}"] = pair_contrast(original, augmented, temperature)
            found[f"cross_{level}"] = pair_contrast(both, everyone[4], temperature)
        return found

    # --- Pictures ---

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Clip (the sampled frame is framed), what is visible of it, its reconstruction, what is visible of the augmented clip,
        and what is visible of the sampled frame, and its reconstruction, as still clips."""
        show, network = output["show"], self.image_backbone
        shown = super().pictures(output)
        shown["clip"] = mark_frames(show["clip"], show["frame"][:, None])
        shown["augmented_visible"] = hide_tokens(show["augmented"], show["augmented_masked"], self.backbone.grid)
        picture = {"clip": show["picture"]} | {name: show[f"image_{name}"] for name in ("masked", "prediction", "target")}
        video = network.preprocess(show["picture"])
        still = masked_pictures(picture, self.image_target, video, network.grid, network.normalisation)
        frames = show["clip"].shape[1]
        return shown | {f"image_{name}": still[name].expand(-1, frames, -1, -1, -1) for name in ("visible", "reconstruction")}

    def picture_notes(self) -> dict[str, str]:
        """Notes on the parts of reconstructions that are not predicted; see `Method.picture_notes`."""
        return super().picture_notes() | ({"image_reconstruction": BORROWED} if self.image.normalise else {})

"""Base class of siamese masked autoencoders: one image is predicted from a few of its patches and from another image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.blocks import init_blocks
from modules.backbones.vit.cross_decoder import CrossDecoder, CrossDecoderSettings
from modules.backbones.vit.positions import sincos_positions_2d
from modules.core.errors import SettingError, check_range
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.core.preprocessing import IMAGENET, Normalisation
from modules.core.tokens import Grid, gather_tokens, patchify
from modules.layers.drawing.clips import BORROWED, hide_tokens, replace_tokens
from modules.layers.targets import InputPixelTarget, constant_loss
from modules.training.method import Method, batch_size_of
from modules.training.optim import ScheduleSettings
from modules.weights.files import read_checkpoint
from modules.weights.names.siamese_mae import our_names
from modules.weights.origin import origin_of
from modules.weights.passport import check_heads


class SiameseMAE(Method):
    """A method that encodes two images with the same network, most patches of the second one being masked, and predicts these.

    The encoder is MAE's: fixed sin-cos position codes, a class token, Xavier-uniform initial weights. Each frame of a clip is
    an image: frame k of the first clip of a pair belongs to frame k of the second.

    Args:
        backbone: encoder, kept after pretraining.
        mask_ratio: fraction of masked patches of the second image; floor((1 - ratio) * patches) remain visible.
        normalise: standardise each predicted patch by its own mean and standard deviation, over all pixels and channels.
        decoder: size of the decoder.
        optim: optimiser and schedule.
        init_from: file with the weights of the whole method (encoder and decoder) to start from, loaded strictly: our .ckpt or
            .safetensors, or an official .pth.

    Raises:
        SettingError: if the mask leaves no patch visible or none masked, or the weights do not fit.
    """

    backbone: FrameTower

    def __init__(
        self,
        backbone: FrameTower,
        mask_ratio: float,
        normalise: bool,
        decoder: CrossDecoderSettings,
        optim: ScheduleSettings,
        init_from: str | None,
    ) -> None:
        super().__init__(optim)
        check_range("model", 0, 1, mask_ratio=mask_ratio)
        if backbone.grid.tubelet != 1:
            raise SettingError(f"model.backbone.every is {backbone.grid.tubelet}, but all frames are encoded; set it to 1.")
        if backbone.vit.cls_token is None or backbone.vit.pos_embed is None or backbone.vit.no_embed_class:
            raise SettingError(
                f"model.backbone.name {backbone.name} has no class token with a position code; choose another, such as that of "
                "MAE."
            )
        self.backbone, self.normalised = backbone, normalise
        self.grid: Grid = backbone.grid._replace(t=1)
        self.visible = kept_patches(self.grid.tokens, mask_ratio)
        if not 0 < self.visible < self.grid.tokens:
            raise SettingError(
                f"model.mask_ratio {mask_ratio} leaves {self.visible} of {self.grid.tokens} patches visible; change it, or "
                "model.backbone.image_size or patch_size, so that at least one is visible and one masked."
            )
        start_as_mae(backbone)
        self.decoder = CrossDecoder(backbone, 3 * self.grid.token_pixels, decoder)
        if init_from is not None:
            content = read_checkpoint(init_from, "model.init_from")
            load_strictly(self, our_names(content.weights), init_from)
            check_heads(init_from, "model.init_from", backbone.num_heads, self.decoder.num_heads)
            self.adopt(origin_of(init_from, content))

    def no_weight_decay(self) -> set[str]:
        """None: class and mask token have weight decay, as in MAE's official code."""
        return set()

    def samples_per_batch(self, data: Any) -> int:
        """See `Method.samples_per_batch`; a sample is a pair of images."""
        clip = getattr(data, "clip", None)
        return batch_size_of(data) * (self.pairs(clip.clips * clip.repeat) * clip.frames if clip is not None else 1)

    def pairs(self, views: int) -> int:
        """Pairs of clips that are made of so many clips of a video."""
        return views

    def draw_visible(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random visible and masked patches of so many images: int64 [count, Nv] and [count, N - Nv]."""
        noise = torch.rand(count, self.grid.tokens, generator=generator, device=generator.device)
        visible, masked = noise.argsort(1).split([self.visible, self.grid.tokens - self.visible], 1)
        return visible, masked

    def encode(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode images.

        Args:
            images: float [F, 3, S, S], normalised.
            visible: int64 [F, Nv], patches to encode; None encodes all.

        Returns:
            [F, 1 + Nv or N, D], class token first, after the final norm.
        """
        return self.backbone.encode_frames(images, visible)

    def predict(self, first: Tensor, second: Tensor, visible: Tensor) -> Tensor:
        """Predict all patches of the second images.

        Args:
            first: float [F, 3, S, S], normalised; all of their patches are seen.
            second: float [F, 3, S, S], normalised.
            visible: int64 [F, Nv], the patches of `second` that are seen.

        Returns:
            [F, N, 3 * P]
        """
        prediction: Tensor = self.decoder(self.encode(second, visible), visible, self.encode(first))
        return prediction

    def rebuild(self, first: Tensor, second: Tensor, generator: torch.Generator) -> StepOutput:
        """Loss of pairs of clips.

        Args:
            first: uint8 [P, T, S, S, 3]
            second: uint8 [P, T, S, S, 3]
            generator: source of the masks.
        """
        first_images, second_images = (self.normalise(one).transpose(1, 2).flatten(0, 1) for one in (first, second))
        visible, masked = self.draw_visible(len(second_images), generator)
        prediction = gather_tokens(self.predict(first_images, second_images, visible), masked).float()
        target = gather_tokens(patch_target(second_images, self.grid, self.normalised), masked)
        return {
            "loss": F.mse_loss(prediction, target),
            "log": {"constant_loss": constant_loss(target)},
            "show": {"clip": second, "first": first, "masked": masked, "prediction": prediction.detach()},
        }

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """The first view, the visible patches of the second view, its prediction, and the second view itself."""
        show = output["show"]
        frames = show["clip"].shape[1]
        # Masks are per frame.
        second, masked = show["clip"].flatten(0, 1)[:, None], show["masked"]
        values = show["prediction"].float()
        if self.normalised:
            images = self.normalise(second)[:, :, 0]
            mean, std = statistics(gather_tokens(patch_values(images, self.grid), masked))
            values = values * std + mean
        pixels = restored(values, self.grid, self.backbone.normalisation)
        drawn = {
            "masked_view_2": hide_tokens(second, masked, self.grid),
            "prediction": replace_tokens(second, masked, pixels, self.grid),
        }
        drawn = {name: one[:, 0].unflatten(0, (-1, frames)) for name, one in drawn.items()}
        return {"view_1": show["first"], **drawn, "view_2": show["clip"]}

    def picture_notes(self) -> dict[str, str]:
        """Note on the parts of a prediction that are not predicted; see `Method.picture_notes`."""
        return {"prediction": BORROWED} if self.normalised else {}


def start_as_mae(backbone: FrameTower) -> None:
    """Make the position codes of an image encoder fixed, and initialise an encoder without weights as MAE does.

    Codes of loaded weights are kept.
    """
    vit = backbone.vit
    assert vit.pos_embed is not None
    assert vit.cls_token is not None
    codes = vit.pos_embed.detach().clone()
    if backbone.is_untrained:
        init_blocks(vit.blocks)
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        nn.init.zeros_(vit.patch_embed.proj.bias)
        nn.init.normal_(vit.cls_token, std=0.02)
        codes = sincos_positions_2d(backbone.grid.h, backbone.grid.w, backbone.embed_dim)
        codes = torch.cat([torch.zeros_like(codes[:, :1]), codes], 1)
    del vit.pos_embed
    vit.register_buffer("pos_embed", codes)


def kept_patches(patches: int, ratio: float) -> int:
    """Visible patches of an image: floor((1 - ratio) * patches), in double precision (official code)."""
    return int(patches * (1 - ratio))


# --- Target ---


def patch_values(images: Tensor, grid: Grid) -> Tensor:
    """The pixels of patches, in the order row, column, channel: float [F, 3, S, S] -> float32 [F, N, 3 * P]."""
    return patchify(images.float()[:, :, None], grid).transpose(2, 3).flatten(2)


def statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(unbiased variance + 1e-6) of each patch, over all pixels and channels: [F, N, D] -> two [F, N, 1]."""
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()


@torch.no_grad()
def patch_target(images: Tensor, grid: Grid, normalise: bool) -> Tensor:
    """What is predicted (MAE, official code): the normalised pixels of each patch, with `normalise` also standardised.

    Args:
        images: float [F, 3, S, S], normalised as for the encoder.
        grid: grid of an image.
        normalise: standardise each patch by its `statistics`.

    Returns:
        float32 [F, N, 3 * P]
    """
    return InputPixelTarget(normalise)(images[:, :, None], grid)


def restored(values: Tensor, grid: Grid, normalisation: Normalisation = IMAGENET) -> Tensor:
    """Colours of patches of normalised pixels: [F, M, 3 * P] -> [F, M, 3, P] in [0, 1]."""
    # Patches as frames of a clip, with one column of pixels each.
    planes = values.unflatten(2, (grid.token_pixels, 3)).permute(0, 3, 1, 2)[..., None]
    result: Tensor = normalisation.restore(planes)[..., 0].transpose(1, 2).clamp(0, 1)
    return result

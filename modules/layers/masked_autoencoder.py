"""Base class of masked autoencoders: target, mask, decoder, and loading of a complete method."""

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from modules.backbones.vit.decoder import DecoderSettings, MaskedDecoder
from modules.backbones.vit.spacetime_vit import SpacetimeDecoder
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.layers.drawing.clips import BORROWED, masked_pictures
from modules.layers.relations import RelationSettings
from modules.layers.targets import PixelTarget, Target
from modules.masks.base import Mask, MaskGenerator
from modules.training.method import Method
from modules.training.optim import ScheduleSettings
from modules.weights.files import Checkpoint, read_checkpoint
from modules.weights.names.videomae import our_names
from modules.weights.origin import origin_of_encoder
from modules.weights.passport import check_heads, said_of


class MaskedAutoencoder(Method):
    """A method that encodes some tokens of a clip and predicts targets for others.

    A subclass calls this constructor, then `build_decoder` (or builds another decoder), then `start_from` if it is initialised
    from a file.

    Args:
        backbone: encoder, kept after pretraining.
        target: prediction target.
        mask: mask generator.
        optim: optimiser and schedule.
        relations: distillation of token relations, for methods that have this setting.

    Raises:
        SettingError: if target, mask or teacher do not match the encoder's token grid.
    """

    backbone: VideoViT
    decoder: MaskedDecoder | SpacetimeDecoder

    def __init__(
        self,
        backbone: VideoViT,
        target: Target,
        mask: MaskGenerator,
        optim: ScheduleSettings,
        relations: RelationSettings | None = None,
    ) -> None:
        super().__init__(optim)
        target.check(backbone)
        mask.check(backbone.grid)
        if relations is not None:
            relations.check(backbone)
        self.backbone, self.target, self.mask, self.relations = backbone, target, mask, relations

    def build_decoder(self, settings: DecoderSettings, out_dim: int | None = None) -> None:
        """Add the decoder as the last part, because the order of parts determines initial weights and the optimiser's state.

        Args:
            settings: size of the decoder.
            out_dim: width of a prediction; None uses the target's.
        """
        width = self.target.dim(self.backbone.grid) if out_dim is None else out_dim
        self.decoder = MaskedDecoder(self.backbone, width, settings)

    def draw_mask(self, count: int, generator: torch.Generator, boxes: Tensor | None = None) -> Mask:
        """Draw a mask for each clip whose targets are all masked tokens; see `MaskGenerator.draw`.

        Raises:
            SettingError: if the mask has other targets, several blocks of them, or rows of unequal lengths.
        """
        grid = self.backbone.grid
        mask = self.mask.draw(count, grid, generator, boxes)
        whole = mask.targets.ndim == 2 and mask.visible.shape[1] + mask.targets.shape[1] == grid.tokens
        if not whole or mask.valid is not None or mask.valid_visible is not None:
            raise SettingError(
                f"model.mask is {type(self.mask).__name__}, whose targets are not the masked tokens, or are in blocks or of "
                f"unequal numbers; choose another mask for {type(self).__name__}."
            )
        return mask

    def targets(self, clip: Tensor, places: Tensor) -> Tensor:
        """Prediction targets.

        Args:
            clip: uint8 [B, T, H, W, 3]
            places: int64 [R * B, Nt], token indices; with several masks per clip, in mask-major order.

        Returns:
            float32 [R * B, Nt, D]
        """
        return self.target.of_tokens(clip, places, self.backbone.grid, self.backbone.normalisation)

    def encode(self, clip: Tensor, visible: Tensor) -> Tensor:
        """Encode the visible tokens.

        Args:
            clip: uint8 [B, T, H, W, 3]
            visible: int64 [R * B, Nv], token indices, ordered as in `targets`.

        Returns:
            [R * B, Nv, D]

        Raises:
            SettingError: if the clips are not those that masks are for.
        """
        frames, height, width = clip.shape[1:4]
        if (frames, height, width) != self.backbone.grid.clip_shape:
            raise SettingError(
                f"Masks are for clips of {self.backbone.num_frames} frames of {self.backbone.image_size} px, not {frames} of "
                f"{height} x {width}; set data.clip.frames and data.clip.size to those of model.backbone."
            )
        return self.backbone.encode_clip(clip, visible)

    def predict(self, clip: Tensor, visible: Tensor, places: Tensor) -> Tensor:
        """Encode the visible tokens and predict others.

        Args:
            clip: uint8 [B, T, H, W, 3]
            visible: int64 [R * B, Nv], token indices, ordered as in `targets`.
            places: int64 [R * B, Nt], indices of the tokens to predict.

        Returns:
            [R * B, Nt, D]
        """
        result: Tensor = self.decoder(self.encode(clip, visible), visible, places)
        return result

    def with_relations(self, output: StepOutput, tokens: Tensor, visible: Tensor) -> StepOutput:
        """Add the loss of token relations to the output of a step, if there is a teacher.

        Args:
            output: output of the step, which shows the clip that was encoded.
            tokens: output of `encode`.
            visible: int64 [R * B, Nv], the indices of these tokens.
        """
        if self.relations is None:
            return output
        loss = self.relations.loss(tokens, output["show"]["clip"], visible, self.backbone)
        log = {"relation_loss": loss.detach(), "prediction_loss": output["loss"].detach()}
        return {
            "loss": output["loss"] + self.relations.weight * loss,
            "log": output["log"] | log,
            "show": output["show"],
        }

    @torch.no_grad()
    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Clip (with boxes of objects), visible tokens, and the reconstruction (or its similarity to the target)."""
        video = self.normalise(output["show"]["clip"])
        return masked_pictures(output["show"], self.target, video, self.backbone.grid, self.backbone.normalisation)

    def picture_notes(self) -> dict[str, str]:
        """Note on the parts of a reconstruction that are not predicted; see `Method.picture_notes`."""
        borrows = isinstance(self.target, PixelTarget) and self.target.normalise
        return {"reconstruction": BORROWED} if borrows else {}

    def own_weights(self, content: Checkpoint, path: str) -> dict[str, Tensor]:
        """Weights of the complete method under this project's names.

        Args:
            content: content of the file.
            path: value of model.init_from, for error messages.
        """
        return our_names(content.weights)

    def start_from(self, path: str) -> None:
        """Load the complete method strictly, from a .ckpt or .safetensors of this project, an official .pth, or a folder.

        Args:
            path: value of model.init_from.

        Raises:
            SettingError: if the weights do not fit.
        """
        content = read_checkpoint(path, "model.init_from")
        load_strictly(self, self.own_weights(content, path), path)
        check_heads(path, "model.init_from", self.backbone.num_heads, self.decoder.num_heads)
        self.adopt(origin_of_encoder(path, content))
        known, own = said_of(path, "model.init_from").get("norm_pix_loss"), getattr(self.target, "normalise", None)
        if known is not None and own != known:
            rank_zero_warn(
                f"model.init_from names {path}, whose decoder predicts {'normalised' if known else 'plain'} pixels; to train "
                f"it further, set model.target.normalise {str(known).lower()}."
            )

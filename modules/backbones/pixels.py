"""Shared by encoders of pixels: the normalisation of clips, and restoring it from weights."""

from typing import Any, Literal

from torch import Tensor

from modules.backbones.checks import check_raw
from modules.core.preprocessing import IMAGENET, Normalisation, Origin, settle_normalisation


class PixelInput:
    """Part of an encoder of video: its normalisation. A constructor sets it with `feed`."""

    kind: Literal["video"] = "video"
    usual_normalisation: Normalisation = IMAGENET
    """where neither a setting nor the weights say"""
    normalisation: Normalisation
    asked_normalisation: Normalisation | None

    def feed(self, asked: Normalisation | None) -> None:
        """Take the setting of the normalisation; None leaves it to the weights."""
        self.normalisation, self.asked_normalisation = asked or self.usual_normalisation, asked

    def preprocess(self, clip: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] as the weights want it.

        Raises:
            SettingError: if the clips have other axes.
        """
        check_raw(clip, 3, type(self).__name__)
        return self.normalisation.apply(clip)

    def adopt(self, origin: Origin) -> list[str]:
        """Use the preprocessing that the weights were trained with. Settings take precedence; unknown values are assumed.

        Args:
            origin: of the weights.

        Returns:
            Lines to print.
        """
        self.normalisation, lines = settle_normalisation(self.asked_normalisation, origin, self.usual_normalisation)
        return lines

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs again, for checkpoints."""
        return {"normalisation": self.normalisation.as_record()}

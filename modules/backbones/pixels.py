"""Normalisation of clips, shared by encoders of video: from a setting, or from the weights."""

from typing import Any, Literal

from torch import Tensor

from modules.backbones.checks import check_raw
from modules.core.preprocessing import IMAGENET, Normalisation, Origin, settle_normalisation


class PixelInput:
    """Mixin of encoders of video for their normalisation. The constructor sets it with `feed`."""

    kind: Literal["video"] = "video"
    usual_normalisation: Normalisation = IMAGENET
    """where neither a setting nor the weights say"""
    normalisation: Normalisation
    asked_normalisation: Normalisation | None
    has_weights: bool = False
    """whether weights were loaded"""

    def feed(self, asked: Normalisation | None) -> None:
        """Set the normalisation. With None, the weights decide when they are loaded."""
        self.normalisation, self.asked_normalisation = asked or self.usual_normalisation, asked

    def preprocess(self, clip: Tensor) -> Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W], normalised as the weights expect.

        Raises:
            SettingError: if the clips have other axes.
        """
        check_raw(clip, 3, type(self).__name__)
        return self.normalisation.apply(clip)

    def adopt(self, origin: Origin) -> list[str]:
        """Use the preprocessing that the weights were trained with. Settings take precedence; unknown values are assumed.

        Args:
            origin: origin of the weights.

        Returns:
            Lines to print.
        """
        self.has_weights = True
        self.normalisation, lines = settle_normalisation(self.asked_normalisation, origin, self.usual_normalisation)
        return lines

    def facts(self) -> dict[str, Any]:
        """What `adopt` needs when a checkpoint is loaded."""
        return {"normalisation": self.normalisation.as_record()}

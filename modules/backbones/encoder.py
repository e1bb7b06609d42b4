"""The interface of all encoders."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from modules.backbones.intermediates import OutputFormat
from modules.core.batch import Kind


@runtime_checkable
class Encoder(Protocol):
    """An encoder of clips of any kind. Encoders are `nn.Module`s; they have no other common base class."""

    kind: Kind
    """kind of its input stream"""
    embed_dim: int
    """number of channels of `forward_features`"""

    @property
    def feature_dim(self) -> int:
        """Length of a pooled feature."""
        ...

    def preprocess(self, clip: Tensor) -> Tensor:
        """Normalise clips from the data as the weights expect."""
        ...

    def forward_features(self, video: Tensor, /) -> Tensor:
        """Tokens, sequence or feature map before pooling, from the output of `preprocess`."""
        ...

    def forward(self, video: Tensor, /) -> Tensor:
        """Pooled features [B, D], from the output of `preprocess`."""
        ...

    def forward_intermediates(
        self,
        clip: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: OutputFormat = "grid",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of blocks, see `modules.backbones.intermediates.Layered`."""
        ...

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, in addition to biases and one-dimensional parameters."""
        ...

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters grouped by layer, from the input to the output, for layer-wise learning rates."""
        ...

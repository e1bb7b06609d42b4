"""S3D (https://arxiv.org/abs/1712.04851), from torchvision."""

from torch import nn
from torchvision.models.video import s3d

from modules.backbones.cnn.base import INCEPTION_STAGES, VideoCNN
from modules.core.preprocessing import Normalisation


class S3D(VideoCNN):
    """Torchvision's S3D without pooling and classifier. Its feature map has 1024 channels and is downsampled by 8 x 32 x 32;
    7,910,048 parameters.

    Args:
        bn_eps: eps of every BatchNorm; null uses that of the weights, or 1e-3 (torchvision's).
        bn_momentum: momentum of BatchNorm's running statistics. With torchvision's 0.001, they need thousands of steps to
            converge from their initial values; this does not matter for fine-tuning from its weights.
        channels_last: memory layout of weights and maps; see `VideoResNet`.
        recompute_blocks: trade compute for memory: activations within stages are recomputed in the backward pass.
        checkpoint: file with weights: a .safetensors or .ckpt of this project, or torchvision's.
        normalisation: normalisation of the clips; null uses that of the weights, or ImageNet's if the file does not record it.

    Raises:
        SettingError: if the checkpoint does not fit.
    """

    embed_dim = 1024
    default_eps = 1e-3
    # One frame more than half the stride, because the last pooling layer does not pad.
    smallest_clip = (5, 32)

    def __init__(
        self,
        bn_eps: float | None = None,
        bn_momentum: float = 0.1,
        channels_last: bool = True,
        recompute_blocks: bool = False,
        checkpoint: str | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        self.features = s3d(weights=None).features
        self.finish(bn_eps, bn_momentum, channels_last, recompute_blocks, checkpoint, normalisation)

    def stages(self) -> list[list[nn.Module]]:
        """Stem and three groups of Inception blocks."""
        parts = list(self.features)
        return [parts[stage] for stage in INCEPTION_STAGES]

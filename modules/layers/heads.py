"""Small networks on top of an encoder."""

import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from modules.backbones.sequence.transformer import key_mask
from modules.backbones.vit.blocks import layer_norm
from modules.backbones.vit.video_vit import VideoViT
from modules.core.device import full_float32
from modules.core.errors import SettingError


def linear_in_float32(layer: nn.Linear, features: Tensor) -> Tensor:
    """Apply a linear layer in full precision, without autocast, because half-precision logits have ties.

    Args:
        layer: the layer.
        features: float [..., D].

    Returns:
        float32 [..., K]
    """
    with full_float32(features.device):
        result: Tensor = layer(features.to(layer.weight.dtype)).float()
        return result


class Standardised(nn.BatchNorm1d):
    """Frozen features with mean 0 and variance 1 in each dimension: BatchNorm without scale and shift, as in MAE's linear
    evaluation (https://arxiv.org/abs/2111.06377, official code).

    Features of masked methods vary little around a large mean. Without this, a linear layer hardly learns from them in the
    usual number of steps.

    Args:
        dim: length of a feature.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6, affine=False)

    def forward(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, D]. A single feature has no variance, so it is standardised as in evaluation."""
        if self.training and len(features) < 2:
            return F.batch_norm(features, self.running_mean, self.running_var, eps=self.eps)
        result: Tensor = super().forward(features)
        return result


class ClassTokenAttention(nn.Module):
    """One transformer block over a class token and others, and a LayerNorm on the class token (attentive probe of LV-MAE,
    https://arxiv.org/abs/2504.03501, official code).

    Args:
        dim: width of a token.
        heads: attention heads; 8 in the official code.

    Raises:
        SettingError: if they do not divide the width.
    """

    def __init__(self, dim: int, heads: int = 8) -> None:
        super().__init__()
        if dim % heads:
            raise SettingError(
                f"model.backbone.embed_dim is {dim}, which the {heads} attention heads of the classifier do not divide; choose "
                "another width, or model.mode linear."
            )
        # LayerNorms have PyTorch's eps of 1e-5 here, unlike those of the encoder.
        self.blocks = nn.Sequential(Block(dim, heads, qkv_bias=True, norm_layer=nn.LayerNorm))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """[N, 1 + S, D], 0 everywhere at padding, -> [N, D]."""
        mask = key_mask((tokens[:, 1:] != 0).any(2))
        result: Tensor = self.norm(self.blocks[0](tokens, attn_mask=mask)[:, 0])
        return result


class VideoClassifier(nn.Module):
    """Fine-tuning network of VideoMAE (official code): mean of the encoder's tokens, LayerNorm, dropout, linear head.

    The encoder's own final norm is not applied. The head's initial weights are small, so that the first logits are nearly zero.

    Args:
        backbone: encoder.
        num_classes: number of outputs.
        dropout: dropout rate of the pooled feature, before the head.
        init_scale: factor on the head's initial weights and bias.
    """

    def __init__(self, backbone: VideoViT, num_classes: int, dropout: float = 0.0, init_scale: float = 0.001) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc_norm = layer_norm(backbone.embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.head.weight.data.mul_(init_scale)
        nn.init.zeros_(self.head.bias)

    def pool(self, video: Tensor) -> Tensor:
        """float [B, 3, T, H, W], normalised -> features [B, D]."""
        result: Tensor = self.fc_norm(self.backbone.forward_features(video, norm=False).mean(1))
        return result

    def forward(self, video: Tensor) -> Tensor:
        """float [B, 3, T, H, W], normalised -> float32 logits [B, num_classes]."""
        return linear_in_float32(self.head, self.dropout(self.pool(video)))


class ProjectionHead(nn.Sequential):
    """Projection of pooled features for the contrastive loss: linear, ReLU, linear (MoCo v2).

    Parameters are named `0.*` and `2.*`, as in TubeletContrast's official code. The output is not normalised.

    Args:
        in_dim: length of a feature.
        hidden: length between the two linear layers.
        out_dim: length of a projection.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int) -> None:
        super().__init__(nn.Linear(in_dim, hidden), nn.ReLU(), nn.Linear(hidden, out_dim))


def projection(in_dim: int, hidden: int | None, out_dim: int) -> nn.Sequential:
    """A `ProjectionHead`, or a linear layer named `0.*` if it has no hidden layer (MoCo v1, RSPNet).

    Args:
        in_dim: length of a feature.
        hidden: length between the two linear layers; None uses that of the features, 0 leaves only one linear layer.
        out_dim: length of a projection.
    """
    if hidden == 0:
        return nn.Sequential(nn.Linear(in_dim, out_dim))
    return ProjectionHead(in_dim, hidden or in_dim, out_dim)


class ProjectionMLP(nn.Sequential):
    """Projection of pooled features for CVRL's loss: linear layers with BatchNorm and ReLU, then a linear one (official code).

    All linear layers have biases. The output is not normalised.

    Args:
        in_dim: length of a feature.
        hidden: length between the linear layers.
        out_dim: length of a projection.
        layers: number of linear layers with BatchNorm and ReLU.
    """

    def __init__(self, in_dim: int, hidden: int, out_dim: int, layers: int = 3) -> None:
        parts: list[nn.Module] = []
        for inputs in (in_dim, *[hidden] * (layers - 1))[:layers]:
            parts += [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden, eps=1e-5, momentum=0.003), nn.ReLU()]
        super().__init__(*parts, nn.Linear(hidden if layers else in_dim, out_dim))

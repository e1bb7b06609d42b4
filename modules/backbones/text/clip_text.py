"""CLIP's text encoder and tokenizer, from the package open_clip: an alternative to our text encoder.

CLIP (https://arxiv.org/abs/2103.00020): a causal transformer over 77 byte-pair tokens. The projected state at the last token
represents the sentence. It has no layers that attend to a video, so it is only used for the contrastive loss. The vocabulary
is part of the package; nothing is downloaded. The package is imported only when such a tower is built.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modules.core.errors import SettingError, check_positive
from modules.core.loading import load_strictly
from modules.weights.files import read_weights
from modules.weights.names.clip import OPENAI, from_clip

TOKENS, PAD = 77, 0


@dataclass
class ClipTextSettings:
    """Sizes of CLIP's text tower. The defaults are those of ViT-B-32 and ViT-B-16.

    Args:
        width: width of the tokens; 768 in ViT-L-14.
        depth: number of layers.
        num_heads: attention heads; 12 in ViT-L-14.
        out_dim: length of a sentence's feature; 768 in ViT-L-14.
        quick_gelu: use the activation of OpenAI's weights, x times the sigmoid of 1.702 x, instead of GELU.
        checkpoint: file with the weights of a CLIP, from open_clip or OpenAI, or null.
    """

    width: int = 512
    depth: int = 12
    num_heads: int = 8
    out_dim: int = 512
    quick_gelu: bool = False
    checkpoint: str | None = None

    def check(self) -> None:
        """Raise a `SettingError` if the sizes do not fit together."""
        check_positive("model.clip", width=self.width, depth=self.depth, num_heads=self.num_heads, out_dim=self.out_dim)
        if self.width % self.num_heads:
            raise SettingError(
                f"model.clip.width {self.width} is not a multiple of model.clip.num_heads {self.num_heads}; change one."
            )


class ClipTokenizer:
    """CLIP's byte-pair tokenizer. Padding has the id of "!", but comes after the last token, where nothing attends to it.

    Raises:
        SettingError: if open_clip is not installed.
    """

    pad = PAD

    def __init__(self) -> None:
        self._cut = _open_clip().SimpleTokenizer()

    def __len__(self) -> int:
        result: int = self._cut.vocab_size
        return result

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids of B sentences, int64 [B, 77]; longer sentences are cut."""
        result: Tensor = self._cut(texts, TOKENS)
        return result


class ClipText(nn.Module):
    """CLIP's text tower.

    Args:
        settings: sizes and initial weights.
        vocabulary: number of words of the tokenizer.

    Raises:
        SettingError: if open_clip is not installed, sizes do not fit together, or the checkpoint does not fit.
    """

    def __init__(self, settings: ClipTextSettings, vocabulary: int) -> None:
        super().__init__()
        settings.check()
        parts = _open_clip().transformer
        self.embed_dim = settings.out_dim
        self.tower = parts.TextTransformer(
            context_length=TOKENS,
            vocab_size=vocabulary,
            width=settings.width,
            heads=settings.num_heads,
            layers=settings.depth,
            output_dim=settings.out_dim,
            act_layer=parts.QuickGELU if settings.quick_gelu else nn.GELU,
        )
        if settings.checkpoint is not None:
            weights = read_weights(settings.checkpoint, "model.clip.checkpoint")
            if OPENAI in weights and not settings.quick_gelu:
                raise SettingError(f"{settings.checkpoint} is a file from OpenAI; set model.clip.quick_gelu to true.")
            load_strictly(self.tower, from_clip(weights), settings.checkpoint)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode each sentence as one token.

        Args:
            ids: int64 [B, 77]
            mask: not used, because the tower does not attend to tokens after the last one.

        Returns:
            [B, 1, D]
        """
        result: Tensor = self.tower(ids)[:, None]
        return result

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters."""
        return {"tower.positional_embedding"}


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise SettingError(
            "model.clip needs the package open_clip_torch; install it (pip install open_clip_torch), or set model.clip to null."
        ) from error
    return open_clip

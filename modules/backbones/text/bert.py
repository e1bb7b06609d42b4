"""Text encoder with the architecture of BERT, whose last layers also attend to a video (as in VindLU, official code).

BERT (https://arxiv.org/abs/1810.04805): learned positions, post-norm layers with LayerNorm eps 1e-12, GELU. The first layers
only encode the sentence; the fusion layers have a cross-attention to the tokens of a video between self-attention and MLP.
The head for masked words shares its matrix with the word embedding. There is no pooler: the first token represents the
sentence.

Attention keys and values are one matrix here, and padding is masked out of the softmax where the official code adds -10000.
The results are equal.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones.vit.blocks import first_std
from modules.core.errors import SettingError, check_positive, check_range
from modules.core.loading import load_strictly
from modules.weights.files import read_weights
from modules.weights.names.bert import from_official

EPS = 1e-12


@dataclass
class TextSettings:
    """Sizes of the text encoder. The defaults are those of bert-base-uncased with VindLU's fusion.

    Args:
        embed_dim: width.
        depth: number of layers, including the fusion layers.
        fusion_depth: number of fusion layers at the end, which also attend to the video.
        num_heads: attention heads.
        mlp_ratio: hidden width of the MLP over the width.
        positions: number of positions, the length of the longest sentence in tokens.
        dropout: dropout rate of embeddings, attention and outputs of the layers.
        checkpoint: file with weights: bert-base-uncased's (model.safetensors or pytorch_model.bin), VindLU's, or a
            .safetensors or .ckpt file of this project; or null. The tokenizer must match the weights.
    """

    embed_dim: int = 768
    depth: int = 12
    fusion_depth: int = 3
    num_heads: int = 12
    mlp_ratio: float = 4.0
    positions: int = 512
    dropout: float = 0.1
    checkpoint: str | None = None

    def check(self) -> None:
        """Raise a `SettingError` if the sizes do not fit together."""
        check_positive("model.text", embed_dim=self.embed_dim, num_heads=self.num_heads, mlp_ratio=self.mlp_ratio)
        check_positive("model.text", positions=self.positions)
        check_range("model.text", 0, 1, dropout=self.dropout)
        if self.embed_dim % self.num_heads:
            raise SettingError(
                f"model.text.embed_dim {self.embed_dim} is not a multiple of model.text.num_heads {self.num_heads}; change one."
            )
        if not 1 <= self.fusion_depth < self.depth:
            raise SettingError(
                f"model.text.fusion_depth {self.fusion_depth} must be at least 1 and below model.text.depth {self.depth}, so "
                "that some layers encode only the sentence; change one of them."
            )


class Attention(nn.Module):
    """Attention from one sequence to another or to itself, with its residual and post-norm.

    Args:
        width: width of the query tokens.
        context: width of the context tokens.
        heads: number of heads.
        dropout: dropout rate of the attention weights and the output.
    """

    def __init__(self, width: int, context: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None, which: Tensor | None = None) -> Tensor:
        """[B, L, D] -> [B, L, D].

        Args:
            tokens: [B, L, D]
            context: [B or C, M, E]
            mask: bool [B, M], False at padding.
            which: int64 [B], row of `context` that each sequence attends to; None for the row of the same index. Keys and
                values of a row are computed once.
        """
        query = self.query(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
        both = self.key_value(context)
        # Threads accumulate the gradient of an indexed tensor in arbitrary order, but not that of `index_select`.
        both = both if which is None else both.index_select(0, which)
        key, value = both.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        visible = None if mask is None else mask[:, None, None, :]
        dropped = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, visible, dropped).transpose(1, 2).flatten(2)
        result: Tensor = self.norm(tokens + F.dropout(self.out(mixed), self.dropout, self.training))
        return result


class TextLayer(nn.Module):
    """One layer of the text encoder.

    Args:
        settings: sizes.
        video_dim: width of the video's tokens in a fusion layer; None in the others.
    """

    def __init__(self, settings: TextSettings, video_dim: int | None) -> None:
        super().__init__()
        width, heads, dropout = settings.embed_dim, settings.num_heads, settings.dropout
        self.dropout = dropout
        self.attention = Attention(width, width, heads, dropout)
        self.cross = None if video_dim is None else Attention(width, video_dim, heads, dropout)
        self.up = nn.Linear(width, int(width * settings.mlp_ratio))
        self.down = nn.Linear(int(width * settings.mlp_ratio), width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, tokens: Tensor, mask: Tensor, video: Tensor | None = None, which: Tensor | None = None) -> Tensor:
        """See `TextEncoder.fuse`."""
        tokens = self.attention(tokens, tokens, mask)
        if self.cross is not None:
            tokens = self.cross(tokens, video, which=which)
        result: Tensor = self.norm(tokens + F.dropout(self.down(F.gelu(self.up(tokens))), self.dropout, self.training))
        return result


class WordHead(nn.Module):
    """Predicts masked words; its last matrix is the word embedding.

    Args:
        width: width of the tokens.
        vocabulary: number of words.
    """

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: Tensor, words: Tensor) -> Tensor:
        """[..., D] and the embedding [words, D] -> logits [..., words]."""
        return F.linear(self.norm(F.gelu(self.dense(tokens))), words, self.bias)


def check_words(words: Tensor | None, vocabulary: int, source: str) -> None:
    """Check that weights fit the vocabulary.

    Args:
        words: [N, D], embeddings of the words; None if the file has none.
        vocabulary: number of words of the tokenizer.
        source: file of the weights.

    Raises:
        SettingError: if the numbers of words differ.
    """
    if words is not None and len(words) != vocabulary:
        raise SettingError(
            f"{source} has {len(words)} words, but the tokenizer has {vocabulary}; pass the vocabulary of the weights "
            "as model.tokenizer.vocabulary."
        )


class TextEncoder(nn.Module):
    """Sentence encoder, fusion with a video, and head for masked words.

    Args:
        settings: sizes and initial weights.
        vocabulary: number of words of the tokenizer.
        video_dim: width of the video's tokens.

    Raises:
        SettingError: if sizes do not fit together, or the checkpoint does not fit.
    """

    def __init__(self, settings: TextSettings, vocabulary: int, video_dim: int) -> None:
        super().__init__()
        settings.check()
        width = settings.embed_dim
        self.embed_dim, self.dropout = width, settings.dropout
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(settings.positions, width))
        # The token type is always 0; the second row of BERT's table of token types is never used.
        self.kind = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=EPS)
        alone = settings.depth - settings.fusion_depth
        self.layers = nn.ModuleList(TextLayer(settings, video_dim if n >= alone else None) for n in range(settings.depth))
        self.alone = alone
        self.head = WordHead(width, vocabulary)
        std = first_std(width)
        self.apply(partial(_init, std=std))
        for table in (self.positions, self.kind):
            nn.init.normal_(table, std=std)
        if settings.checkpoint is not None:
            weights = from_official(read_weights(settings.checkpoint, "model.text.checkpoint"))
            check_words(weights.get("words.weight"), vocabulary, settings.checkpoint)
            fresh = tuple(f"layers.{n}.cross." for n in range(alone, settings.depth))
            load_strictly(self, weights, settings.checkpoint, may_miss=(*fresh, "head."))

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode sentences with the layers before the fusion.

        Args:
            ids: int64 [B, L], the first token represents the sentence.
            mask: bool [B, L], False at padding.

        Returns:
            [B, L, D]
        """
        if ids.shape[1] > len(self.positions):
            raise SettingError(
                f"A sentence has {ids.shape[1]} tokens, but model.text.positions is {len(self.positions)}; lower "
                "model.tokenizer.max_tokens or raise it."
            )
        tokens: Tensor = self.norm(self.words(ids) + self.positions[: ids.shape[1]] + self.kind)
        tokens = F.dropout(tokens, self.dropout, self.training)
        for layer in self.layers[: self.alone]:
            tokens = layer(tokens, mask)
        return tokens

    def fuse(self, tokens: Tensor, mask: Tensor, video: Tensor, which: Tensor | None = None) -> Tensor:
        """Fuse encoded sentences with videos in the remaining layers.

        Args:
            tokens: [B, L, D], output of `encode`.
            mask: bool [B, L], False at padding.
            video: [B or C, N, E], tokens of videos.
            which: int64 [B], row of the video of each sentence; None for the row of the same index.

        Returns:
            [B, L, D]
        """
        for layer in self.layers[self.alone :]:
            tokens = layer(tokens, mask, video, which)
        return tokens

    def name_words(self, tokens: Tensor) -> Tensor:
        """Logits [B, L, words] of fused tokens."""
        result: Tensor = self.head(tokens, self.words.weight)
        return result

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, in addition to biases and one-dimensional parameters."""
        return {"positions"}


def _init(part: nn.Module, std: float) -> None:
    if isinstance(part, nn.Linear | nn.Embedding):
        nn.init.normal_(part.weight, std=std)
    if isinstance(part, nn.Linear):
        nn.init.zeros_(part.bias)


# --- Weights of BERT and VindLU ---

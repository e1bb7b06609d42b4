"""Parameter names of BERT and of VindLU's text encoder."""

import re

import torch
from torch import Tensor

OFFICIAL_PARTS = {
    "attention.self.query": "attention.query",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention.norm",
    "crossattention.self.query": "cross.query",
    "crossattention.output.dense": "cross.out",
    "crossattention.output.LayerNorm": "cross.norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}


OFFICIAL_NAMES = {
    "embeddings.word_embeddings.weight": "words.weight",
    "embeddings.position_embeddings.weight": "positions",
    "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias",
    "cls.predictions.transform.dense.weight": "head.dense.weight",
    "cls.predictions.transform.dense.bias": "head.dense.bias",
    "cls.predictions.transform.LayerNorm.weight": "head.norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "head.norm.bias",
    "cls.predictions.bias": "head.bias",
}


# Copies of the word embedding, the unused pooler, and a table of row indices.
OFFICIAL_UNUSED = ("cls.predictions.decoder.", "cls.seq_relationship.", "pooler.", "embeddings.position_ids")


LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a BERT, or of VindLU's text encoder, to those of `TextEncoder`; other weights are dropped.

    Args:
        state: `embeddings.*` and `encoder.*`, optionally with the prefix `bert.` or `text_encoder.bert.`, and optionally
            `cls.*`. Old files call weight and bias of a LayerNorm gamma and beta. If the weights are a complete method of this
            project, only `text.*` is used.
    """
    if "text.words.weight" in state:
        return {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
    renamed: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    whole = any(key.startswith("text_encoder.") for key in state)
    for key, value in state.items():
        if whole and not key.startswith("text_encoder."):
            continue
        name = key.removeprefix("text_encoder.").removeprefix("bert.")
        theirs[name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")] = value
    for name, value in theirs.items():
        layer = LAYER.fullmatch(name)
        if name == "embeddings.token_type_embeddings.weight":
            renamed["kind"] = value[0]
        elif layer is None:
            if not name.startswith(OFFICIAL_UNUSED):
                renamed[OFFICIAL_NAMES.get(name, name)] = value
        elif layer[2] in OFFICIAL_PARTS:
            renamed[f"layers.{layer[1]}.{OFFICIAL_PARTS[layer[2]]}.{layer[3]}"] = value
        elif layer[2].endswith("self.key"):
            part = "cross" if layer[2].startswith("cross") else "attention"
            partner = theirs.get(name.replace("self.key.", "self.value."))
            # A key without its value keeps its name, so that loading fails.
            joined = name if partner is None else f"layers.{layer[1]}.{part}.key_value.{layer[3]}"
            renamed[joined] = value if partner is None else torch.cat([value, partner])
        elif not layer[2].endswith("self.value"):
            renamed[name] = value
    return renamed

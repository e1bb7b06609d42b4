"""VideoMAE in the format of the library `transformers`: names, config.json, preprocessor_config.json.

An encoder becomes its `VideoMAEModel`, encoder and decoder its `VideoMAEForPreTraining`, and a fine-tuned network its
`VideoMAEForVideoClassification`. The same network under other names, with these particulars:

* query, key and value are separate there. Neither it nor the official code has a key bias; ours changes no output and is
  left out. The names q_bias and v_bias are those of the published files, which all versions of the library read.
* `use_mean_pooling` says two things: that tokens are averaged before the head, and that the encoder ends without a
  LayerNorm. Pretrained encoders have one, fine-tuned ones have not.
* its decoder can only predict pixels, and its last LayerNorms (`decoder.norm`, `fc_norm`) have eps 1e-5 whatever the
  config says, where ours and the official ones have 1e-6. The relative difference of outputs is at most 5e-6 over the
  variance of what is normalised. Published configs say eps 1e-12 for the other LayerNorms; ours keep the official 1e-6.
* clips are [B, T, 3, H, W] there and [B, 3, T, H, W] here.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from modules.core.errors import SettingError
from modules.core.origin import read_json
from modules.core.preprocessing import Normalisation

if TYPE_CHECKING:  # `VideoViT` reads such folders, and the table of sizes knows `VideoViT`
    from modules.backbones.architecture import Architecture, Facts

CLASSES = {
    "encoder": "VideoMAEModel",
    "pretraining": "VideoMAEForPreTraining",
    "classifier": "VideoMAEForVideoClassification",
}
HIGHEST_EPS = 1e-5

# Ours -> theirs, within a block. Their older name of a bias stands where they have two.
BLOCK_PARTS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# Ours -> theirs, outside the blocks.
PREFIXES = {
    "backbone.patch_embed.": "videomae.embeddings.patch_embeddings.projection.",
    "backbone.norm.": "videomae.layernorm.",
    "backbone.blocks.": "videomae.encoder.layer.",
    "decoder.embed.": "encoder_to_decoder.",
    "decoder.mask_token": "mask_token",
    "decoder.blocks.": "decoder.decoder_layers.",
    "head.": "classifier.",
}
BLOCK = re.compile(r"(.*(?:blocks|layer|decoder_layers)\.\d+\.)(.+)\.(weight|bias)")
ATTENTION = "attention.attention."


def to_huggingface(weights: dict[str, Tensor], architecture: "Architecture") -> dict[str, Tensor]:
    """Rename our weights to those of the class that fits them (see `CLASSES`).

    Args:
        weights: under our names.
        architecture: their sizes.

    Raises:
        SettingError: if the decoder predicts something other than pixels.
    """
    sizes = architecture
    pixels = 3 * sizes.tubelet_size * sizes.patch_size**2
    if sizes.decoder_out not in (None, pixels):
        raise SettingError(
            f"--to huggingface: the decoder predicts {sizes.decoder_out} values per token, but transformers' VideoMAE only the "
            f"{pixels} of a token's pixels; pass --part backbone to write the encoder alone."
        )
    renamed: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith("backbone.norm.") and sizes.kind == "classifier":
            continue
        if key == "backbone.patch_embed.weight":
            value = value.reshape(-1, 3, sizes.tubelet_size, sizes.patch_size, sizes.patch_size)
        name = _swap_prefix(key, PREFIXES)
        if sizes.kind == "encoder":
            name = name.removeprefix("videomae.")
        block = BLOCK.fullmatch(name)
        if block is None:
            renamed[name] = value
        elif block[2] != "attn.qkv":
            renamed[f"{block[1]}{BLOCK_PARTS.get(block[2], block[2])}.{block[3]}"] = value
        else:
            query, middle, last = (part.clone() for part in value.chunk(3))
            start = block[1] + ATTENTION
            if block[3] == "weight":
                renamed |= {f"{start}query.weight": query, f"{start}key.weight": middle, f"{start}value.weight": last}
            else:
                renamed |= {f"{start}q_bias": query, f"{start}v_bias": last}
    return renamed


def from_huggingface(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `to_huggingface`, with a zero key bias; names that are unknown or lack their partners stay as they are."""
    theirs = {their: our for our, their in PREFIXES.items()}
    parts = {their: our for our, their in BLOCK_PARTS.items()}
    named = {_full_name(key): value for key, value in weights.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in named.items():
        name = _swap_prefix(key, theirs)
        if name == "backbone.patch_embed.weight":
            value = value.flatten(1)
        block = BLOCK.fullmatch(name)
        if block is None:
            renamed[name] = value
        elif not block[2].startswith(ATTENTION):
            renamed[f"{block[1]}{parts.get(block[2], block[2])}.{block[3]}"] = value
        else:
            fused = _fuse(named, key.rsplit(".", 2)[0], block[3])
            if fused is None:
                renamed[key] = value
            else:
                renamed[f"{block[1]}attn.qkv.{block[3]}"] = fused
    return renamed


def _full_name(key: str) -> str:
    """The newest name, with the prefix that an encoder alone lacks."""
    key = key.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")
    return f"videomae.{key}" if key.startswith(("embeddings.", "encoder.layer.", "layernorm.")) else key


def _fuse(named: dict[str, Tensor], start: str, what: str) -> Tensor | None:
    """Query, key and value in one tensor; None if one is missing."""
    query, value = named.get(f"{start}.query.{what}"), named.get(f"{start}.value.{what}")
    key = named.get(f"{start}.key.{what}")
    if key is None and query is not None and what == "bias":
        key = query.new_zeros(query.shape)
    return None if query is None or key is None or value is None else torch.cat([query, key, value])


def _swap_prefix(key: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def model_config(
    architecture: "Architecture", final_norm: bool, norm_pix_loss: bool | None = None, class_names: list[str] | None = None
) -> dict[str, Any]:
    """Content of config.json.

    Args:
        architecture: sizes of the network.
        final_norm: whether the weights hold the encoder's last LayerNorm.
        norm_pix_loss: whether the pixels that a decoder predicts were normalised cube by cube. If None, nobody knows: it is
            left out, which `transformers` reads as true, and a line says so.
        class_names: by label; LABEL_0, LABEL_1 and so on, as in `transformers`, if None.
    """
    sizes = architecture
    config: dict[str, Any] = {
        "architectures": [CLASSES[sizes.kind]],
        "model_type": "videomae",
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "num_channels": 3,
        "num_frames": sizes.num_frames,
        "tubelet_size": sizes.tubelet_size,
        "hidden_size": sizes.embed_dim,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.num_heads,
        "intermediate_size": int(sizes.embed_dim * sizes.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": sizes.kind == "classifier" or not final_norm,
    }
    if sizes.decoder_dim is not None:
        config |= {
            "decoder_hidden_size": sizes.decoder_dim,
            "decoder_num_hidden_layers": sizes.decoder_depth,
            "decoder_num_attention_heads": sizes.decoder_heads,
            "decoder_intermediate_size": int(sizes.decoder_dim * sizes.mlp_ratio),
        }
        if norm_pix_loss is not None:
            config["norm_pix_loss"] = norm_pix_loss
        else:
            rank_zero_info(
                "Nothing says whether the predicted pixels were normalised: transformers takes it that they were; if not, set "
                "norm_pix_loss to false in config.json."
            )
    if sizes.num_classes is not None:
        given = class_names or [f"LABEL_{number}" for number in range(sizes.num_classes)]
        names = {str(number): name for number, name in enumerate(given)}
        config |= {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    return config


def preprocessor_config(image_size: int, normalisation: Normalisation) -> dict[str, Any]:
    """Content of preprocessor_config.json: shorter side to `image_size`, centre crop, mean and standard deviation."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalisation.mean),
        "image_std": list(normalisation.std),
    }


def read_config(path: Path, setting: str = "--source") -> "Facts":
    """What a config.json says that weights do not; refuses networks that ours is not.

    Args:
        path: config.json.
        setting: command-line name of the setting that named the folder, for error messages.

    Raises:
        SettingError: if the file is missing or no VideoMAE, or the network differs from ours.
    """
    config = read_json(path)
    if "model_type" not in config:
        raise SettingError(f"{setting}: {path} is no config of a model; restore it.")
    if config["model_type"] != "videomae":
        raise SettingError(f"{setting}: {path} is of a {config['model_type']!r} network; only 'videomae' can be read.")
    eps = config.get("layer_norm_eps", 0.0)
    # Left-out settings have transformers' defaults, as its files only list what differs.
    differences = {
        "hidden_act": config.get("hidden_act", "gelu") != "gelu",
        "num_channels": config.get("num_channels", 3) != 3,
        "layer_norm_eps": not isinstance(eps, int | float) or eps > HIGHEST_EPS,
        "use_mean_pooling": "Classification" in str(config.get("architectures")) and not config.get("use_mean_pooling", True),
    }
    for name, differs in differences.items():
        if differs:
            raise SettingError(f"{setting}: {path} has {name} {config.get(name)!r}, which ours cannot have; pass another.")
    names = {
        "image_size": ("image_size", 224),
        "num_frames": ("num_frames", 16),
        "patch_size": ("patch_size", 16),
        "tubelet_size": ("tubelet_size", 2),
        "num_heads": ("num_attention_heads", 12),
        "decoder_heads": ("decoder_num_attention_heads", 6),
    }
    facts: Facts = {}
    for ours, (theirs, default) in names.items():
        value = config.get(theirs, default)
        sides = value if isinstance(value, list) and value else [value]
        if not all(isinstance(side, int) and side == sides[0] for side in sides):
            raise SettingError(f"{setting}: {path} has {theirs} {value}; only whole numbers and squares can be read.")
        facts[ours] = int(sides[0])
    return facts


def norm_pix_loss_of(path: Path, default: bool | None) -> bool | None:
    """Whether a config.json says that pixels are normalised cube by cube; `default` where it leaves that out."""
    value = read_json(path).get("norm_pix_loss")
    return value if isinstance(value, bool) else default


def class_names_of(path: Path) -> list[str] | None:
    """Names of the classes by label in a config.json; None if there are none, or only LABEL_0, LABEL_1 and so on."""
    names = read_json(path).get("id2label")
    if not isinstance(names, dict) or names.keys() != {str(number) for number in range(len(names))}:
        return None
    ordered = [str(names[str(number)]) for number in range(len(names))]
    return None if ordered == [f"LABEL_{number}" for number in range(len(names))] else ordered

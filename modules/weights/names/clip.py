"""Parameter names of CLIP's image tower and text tower."""

from torch import Tensor

# Further entries of a complete CLIP: its image tower, its temperature, and in OpenAI's files three numbers.
OPENAI = "input_resolution"


UNUSED = ("visual.", "logit_scale", "logit_bias", OPENAI, "context_length", "vocab_size", "attn_mask")


def from_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of a CLIP.

    Args:
        state: weights of open_clip or OpenAI, with or without the prefix `text.`.
    """
    named = {key.removeprefix("text."): value for key, value in state.items()}
    return {key: value for key, value in named.items() if not key.startswith(UNUSED)}


def clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename OpenAI's image tower to timm's names; text tower, projection and logit scale are dropped.

    Accepts the whole model (`visual.*`), the bare tower, and a tower whose patch convolution was inflated over time.
    """
    if any(key.startswith("visual.") for key in state):
        state = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "proj":
            continue
        name = key.replace("transformer.resblocks.", "blocks.").replace("ln_pre.", "norm_pre.")
        name = name.replace("ln_post.", "norm.").replace("conv1.", "patch_embed.proj.")
        name = name.replace(".ln_1.", ".norm1.").replace(".ln_2.", ".norm2.")
        name = name.replace("attn.in_proj_", "attn.qkv.").replace("attn.out_proj.", "attn.proj.")
        name = name.replace("mlp.c_fc.", "mlp.fc1.").replace("mlp.c_proj.", "mlp.fc2.")
        if name == "patch_embed.proj.weight" and value.ndim == 5:
            value = value[:, :, 0]
        if name == "class_embedding":
            name, value = "cls_token", value.reshape(1, 1, -1)
        if name == "positional_embedding":
            name, value = "pos_embed", value.reshape(1, *value.shape[-2:])
        renamed[name] = value.float()
    return renamed

"""Parameter names of PRP's official code: C3D below `base_network.`, the rate head, the decoder."""

from torch import Tensor

# Official block -> block and name of its layers in `C3D`.
BLOCKS = {
    "conv1": "block1.{}1",
    "conv2": "block2.{}2",
    "conv3_1": "block3.{}3a",
    "conv3_2": "block3.{}3b",
    "conv4_1": "block4.{}4a",
    "conv4_2": "block4.{}4b",
    "conv5_1": "block5.{}5a",
    "conv5_2": "block5.{}5b",
}
ENCODER_NAMES = {
    f"base_network.{block}.conv3d.{place}.": f"backbone.{own.format(kind)}."
    for block, own in BLOCKS.items()
    for place, kind in enumerate(("conv", "bn"))
}
PARTS = {"rate_head.": ("conv6_cls.", "fc8."), "decoder.": ("conv6_rec.", "up1.", "up2.", "up3.", "up4_1.", "outc.")}
"""parts of the method, whose layers have the official names"""


def is_prp(state: dict[str, Tensor]) -> bool:
    """Whether these are weights of PRP's official code; no other known file has this name."""
    return "base_network.conv1.conv3d.0.weight" in state


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename PRP's weights to the method's names: `backbone.*`, `rate_head.*`, `decoder.*`. Unknown names are unchanged."""
    renamed = {}
    for key, value in state.items():
        start, end = _split(key, 4)
        part = next((part for part, names in PARTS.items() if key.startswith(names)), "")
        renamed[ENCODER_NAMES[start] + end if start in ENCODER_NAMES else part + key] = value
    return renamed


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_official`."""
    official = {own: name for name, own in ENCODER_NAMES.items()}
    renamed = {}
    for key, value in state.items():
        start, end = _split(key, 3)
        plain = key.removeprefix("rate_head.").removeprefix("decoder.")
        renamed[official[start] + end if start in official else plain] = value
    return renamed


def _split(key: str, dots: int) -> tuple[str, str]:
    """A name after its first dots, which belong to the first part."""
    words = key.split(".")
    return "".join(f"{word}." for word in words[:dots]), ".".join(words[dots:])

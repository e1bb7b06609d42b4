"""Parameter names of the parts of MoCo, CtP and TubeletContrast other than the backbone: heads, key branch, queue."""

from torch import Tensor

OFFICIAL_PARTS = {"key_encoder.": "contrast.key_backbone.", "key_fc.": "contrast.key_head.", "fc.": "contrast.head."}


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename heads, key branch and queue of TubeletContrast's official files (CtP's have the same form) to a method's names.

    Official files store the keys of the queue as columns. The head of I3D includes the pooling, so its linear layers are 2 and
    4. Names of the backbones are renamed by `modules.weights.names.cnn.video_cnn.from_official`.

    Args:
        state: `backbone.*`, `key_encoder.*`, `fc.*`, `key_fc.*`, `queue`, `queue_ptr`; all except `backbone.*` are optional.
    """
    layers = {"2.": "0.", "4.": "2."} if "fc.4.weight" in state else {}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "queue":
            renamed["contrast.queue.keys"] = value.T.contiguous()
        elif key == "queue_ptr":
            renamed["contrast.queue.pointer"] = value.reshape(())
        else:
            part = next((part for part in OFFICIAL_PARTS if key.startswith(part)), None)
            rest = key.removeprefix(part or "")
            if part is not None and "fc" in part:
                rest = next((new + rest.removeprefix(old) for old, new in layers.items() if rest.startswith(old)), rest)
            renamed[OFFICIAL_PARTS[part] + rest if part is not None else key] = value
    return renamed

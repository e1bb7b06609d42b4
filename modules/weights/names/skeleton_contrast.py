"""Parameter names of skeleton contrast: two encoders, their momentum copies, queues."""

import re

from torch import Tensor

OFFICIAL_GRU = re.compile(r"encoder\.gru\.(\w+)_l(\d+)(_reverse)?")
OUR_GRU = re.compile(r"(first|second)\.(\d+)\.(\w+)_l0")


def gru_from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename `encoder.gru.<kind>_l<layer>[_reverse]` to this project's names; other names are unchanged."""
    return {
        OFFICIAL_GRU.sub(lambda m: f"{'second' if m[3] else 'first'}.{m[2]}.{m[1]}_l0", key): value
        for key, value in state.items()
    }


def gru_to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `gru_from_official`."""
    return {
        OUR_GRU.sub(lambda m: f"encoder.gru.{m[3]}_l{m[2]}{'_reverse' if m[1] == 'second' else ''}", key): value
        for key, value in state.items()
    }


# Official names of the two pairs of encoders, which contain the heads.
OFFICIAL_PARTS = {
    "encoder_q.fc.": "contrast.head.",
    "encoder_k.fc.": "contrast.key_head.",
    "encoder_r.fc.": "partner_contrast.head.",
    "encoder_l.fc.": "partner_contrast.key_head.",
    "encoder_q.": "backbone.",
    "encoder_k.": "contrast.key_backbone.",
    "encoder_r.": "partner.",
    "encoder_l.": "partner_contrast.key_backbone.",
}


OFFICIAL_QUEUES = {"_S1": "contrast.queue.", "_S2": "partner_contrast.queue.", "": "contrast.queue."}


def from_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a complete official run (one or two encoders, their momentum copies, queues) to this project's.

    Official files store the keys of the queues as columns. Other names are unchanged.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in gru_from_official(state).items():
        kind = key.partition("_S")[0]
        queue = OFFICIAL_QUEUES.get(key.removeprefix(kind))
        if queue is not None and kind in ("Queue", "queue"):
            renamed[f"{queue}keys"] = value.T.contiguous()
        elif queue is not None and kind == "queue_ptr":
            renamed[f"{queue}pointer"] = value.reshape(())
        else:
            part = next((part for part in OFFICIAL_PARTS if key.startswith(part)), "")
            renamed[OFFICIAL_PARTS.get(part, "") + key.removeprefix(part)] = value
    return renamed


def to_official(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `from_official`."""
    parts = {ours: theirs for theirs, ours in OFFICIAL_PARTS.items()}
    pair = any(key.startswith("partner.") for key in state)
    renamed: dict[str, Tensor] = {}
    for key, value in gru_to_official(state).items():
        prefix, _, entry = key.partition(".queue.")
        number = ("_S2" if prefix.startswith("partner") else "_S1") if pair else ""
        if entry == "keys":
            renamed[f"{'Queue' if pair else 'queue'}{number}"] = value.T.contiguous()
        elif entry == "pointer":
            renamed[f"queue_ptr{number}"] = value.reshape(1)
        else:
            part = next((part for part in parts if key.startswith(part)), "")
            renamed[parts.get(part, "") + key.removeprefix(part)] = value
    return renamed

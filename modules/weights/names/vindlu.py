"""Parameter names of a complete VindLU."""

from torch import Tensor

from modules.weights.names.beit import from_official as video_from_official
from modules.weights.names.bert import from_official as text_from_official

HEADS = {"vision_proj.": "video_projection.", "text_proj.": "text_projection.", "itm_head.": "match_head."}


def is_vindlu(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of a complete VindLU (official code)."""
    return all(any(key.startswith(side) for key in state) for side in ("vision_encoder.", "text_encoder."))


def from_vindlu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a VindLU to those of `LocoMotion`.

    Args:
        state: weights of an official file.
    """
    renamed = {f"backbone.{key}": value for key, value in video_from_official(state).items()}
    renamed |= {f"text.{key}": value for key, value in text_from_official(state).items()}
    renamed |= {
        ours + key.removeprefix(theirs): value
        for key, value in state.items()
        for theirs, ours in HEADS.items()
        if key.startswith(theirs)
    }
    return renamed | {"temperature": state["temp"]}


def is_video_text(weights: dict[str, Tensor]) -> bool:
    """Whether these are a video encoder with a text encoder, of this project or VindLU."""
    return is_vindlu(weights) or ("text.words.weight" in weights and "backbone.frame_positions" in weights)


def is_text(weights: dict[str, Tensor]) -> bool:
    """Whether these are only a text encoder, of this project or a BERT."""
    return "words.weight" in text_from_official(weights)

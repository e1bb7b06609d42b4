"""Checks of the inputs of encoders. They only look at shapes and types, so they cause no host sync."""

import torch
from torch import Tensor

from modules.core.errors import SettingError

VIDEO, RAW_VIDEO = "[B, 3, T, H, W]", "[B, T, H, W, 3]"


def check_raw(clip: Tensor, channels: int, network: str) -> None:
    """Check that clips are [B, T, H, W, C], before they are normalised.

    Args:
        clip: input of `preprocess`.
        channels: C.
        network: name of the encoder's class.

    Raises:
        SettingError: if the clips have another shape.
    """
    if clip.ndim != 5 or clip.shape[-1] != channels:
        raise SettingError(
            f"{network}.preprocess takes decoded clips [B, T, H, W, {channels}], but was given {_form(clip)}; "
            "put the axes in this order, and add the axes of batch and time to a single image or clip."
        )


def check_video(video: Tensor, weight: Tensor, network: str) -> None:
    """Check that the input is a batch of normalised clips [B, 3, T, H, W].

    Args:
        video: input of the encoder.
        weight: weight of its first layer.
        network: name of its class.

    Raises:
        SettingError: if it has other axes, other channels or another type.
    """
    if video.ndim != 5 or video.shape[1] != 3 or not _fits(video, weight):
        raise SettingError(
            f"{network} takes normalised clips {VIDEO} of float32, but was given {_form(video)}; pass "
            f"network.preprocess(clip), which makes them from uint8 {RAW_VIDEO}."
        )


def check_signal(signal: Tensor, weight: Tensor, channels: int, network: str) -> None:
    """Check that the input is a batch of signals [B, C, L].

    Args:
        signal: input of the encoder.
        weight: weight of its first layer.
        channels: C.
        network: name of its class.

    Raises:
        SettingError: if it has other axes, other channels or another type.
    """
    if signal.ndim != 3 or not _fits(signal, weight):
        raise SettingError(
            f"{network} takes signals [B, {channels}, L] of float32, but was given {_form(signal)}; pass "
            "network.preprocess(signal), with the axes in this order."
        )
    if signal.shape[1] != channels:
        raise SettingError(
            f"{network} takes {channels} channels, but the data have {signal.shape[1]}; set model.backbone.channels."
        )


def check_sequences(sequence: Tensor, weight: Tensor, width: int, network: str) -> None:
    """Check that the input is a batch of sequences of features [B, S, D].

    Args:
        sequence: input of the encoder.
        weight: weight of its first layer.
        width: D.
        network: name of its class.

    Raises:
        SettingError: if it has other axes, another width or another type.
    """
    if sequence.ndim != 3 or not _fits(sequence, weight):
        raise SettingError(
            f"{network} takes sequences of features [B, S, {width}] of float32, but was given {_form(sequence)}; compute them "
            "with python main.py embed --every SECONDS."
        )
    if sequence.shape[2] != width:
        raise SettingError(
            f"{network} takes features of width {width}, but the data have {sequence.shape[2]}; set model.backbone.embed_dim, "
            "or model.backbone.input_dim for a projection."
        )


def check_bodies(skeleton: Tensor, weight: Tensor, joints: int, persons: int, network: str) -> None:
    """Check that the input is a batch of skeleton clips [B, 3, T, J, M].

    Args:
        skeleton: input of the encoder.
        weight: weight of its first layer.
        joints: J.
        persons: M.
        network: name of its class.

    Raises:
        SettingError: if it has other axes, another number of joints or persons, or another type.
    """
    if skeleton.ndim != 5 or not _fits(skeleton, weight):
        raise SettingError(
            f"{network} takes skeletons [B, 3, T, {joints}, {persons}] of float32 (coordinates, frames, joints, persons), but "
            f"was given {_form(skeleton)}; put the axes in this order."
        )
    _, coordinates, frames, given_joints, given_persons = skeleton.shape
    if not frames:
        raise SettingError(f"{network} takes skeletons of at least one frame; pass longer ones.")
    if (coordinates, given_joints, given_persons) != (3, joints, persons):
        raise SettingError(
            f"{network} takes {persons} persons of {joints} joints in 3 coordinates, not {given_persons} of {given_joints} in "
            f"{coordinates}; choose data of this form."
        )


def _fits(clip: Tensor, weight: Tensor) -> bool:
    """Whether the weights can be multiplied with this type. Autocast converts float32 only, not float64."""
    return clip.is_floating_point() and (clip.dtype != torch.float64 or weight.dtype == torch.float64)


def _form(clip: Tensor) -> str:
    return f"{str(clip.dtype).removeprefix('torch.')} {list(clip.shape)}"

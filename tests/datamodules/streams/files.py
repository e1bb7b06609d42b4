"""Small files of every kind of stream."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file

from datamodules.streams.settings import StreamSettings
from datamodules.video.readers import VideoInfo
from datamodules.video.sampling import ClipSettings, Plan, Steps, make_plan


def make_plan_of(
    frames: Sequence[int],
    fps: float = 25,
    size: int = 32,
    picture: tuple[int, int] = (64, 48),
    span: tuple[float, float] | None = None,
) -> Plan:
    """A plan of one view of a video with centred squares: these frames of it."""
    numbers = np.array([frames])
    info = VideoInfo(max(frames) + 1, fps, *picture)
    steps = Steps(info, numbers, (numbers / fps).astype(np.float32))
    plan = make_plan(steps, ClipSettings(frames=len(frames), size=size), None)
    plan.span = span
    return plan


def write_csv(path: Path, header: str, *rows: object) -> Path:
    """A table; rows are texts or sequences of numbers."""
    lines = [row if isinstance(row, str) else ",".join(map(str, row)) for row in rows]  # type: ignore[call-overload]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def write_table(
    path: Path, seconds: float = 2, rate: float = 50, names: Sequence[str] = ("ax", "ay", "az"), unit: float = 1
) -> Path:
    """A sensor whose column c is 10 c + seconds, with times."""
    times = np.arange(round(seconds * rate)) / rate
    rows = [[f"{time * unit:.6f}", *(f"{10 * place + time:.6f}" for place in range(len(names)))] for time in times.tolist()]
    return write_csv(path, ",".join(["time", *names]), *rows)


def write_tone(path: Path, seconds: float = 2, rate: int = 16000) -> Path:
    """A tone of 440 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(np.arange(round(seconds * rate)) / rate * 2 * np.pi * 440)[None] * 8000
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16), format="s16", layout="mono")
        frame.rate = rate
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def write_collection(path: Path, recordings: int = 3, steps: int = 5, width: int = 4) -> dict[str, torch.Tensor]:
    """Features of recordings that are 1, 2, ... seconds shorter, a step a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = torch.arange(float(steps)).expand(recordings, steps)
    found = {
        "feature": torch.arange(recordings * steps * width).view(recordings, steps, width).half(),
        "length": steps - torch.arange(recordings),
        "time": torch.stack([start, start + 1], -1).contiguous(),
    }
    save_file(found, path)
    return found


def write_json(path: Path, content: object) -> Path:
    """A json file."""
    path.write_text(json.dumps(content))
    return path


def settings(**parts: object) -> StreamSettings:
    """Settings of streams."""
    return StreamSettings(**parts)  # type: ignore[arg-type]

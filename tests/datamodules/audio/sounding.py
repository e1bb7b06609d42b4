"""Small files with sound, written by PyAV: claps, tones, silence, shifted tracks."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 25
RATE = 16000


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A chirp with some noise: int16 [channels, n]; channels differ."""
    moment = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).normal(0, 0.02, len(moment))
    parts = [0.3 * np.sin(2 * np.pi * (200 + 90 * place + 60 * moment) * moment) + noise for place in range(channels)]
    return np.round(np.stack(parts) * 32767).astype(np.int16)


def claps(moments: list[float], seconds: float, rate: int = RATE) -> np.ndarray:
    """Silence except for bursts of 5 ms: int16 [1, n]."""
    samples = np.zeros(round(seconds * rate), np.int16)
    burst = np.random.default_rng(1).integers(-20000, 20000, round(0.005 * rate))
    for moment in moments:
        place = round(moment * rate)
        samples[place : place + len(burst)] = burst
    return samples[None]


def write_sounding(
    path: Path,
    samples: np.ndarray | None,
    codec: str = "aac",
    frames: int = 0,
    flashes: list[float] | None = None,
    delay: float = 0.0,
    rate: int = RATE,
) -> Path:
    """A file with pictures, or sound, or both.

    Args:
        path: path of the file; its suffix selects the container.
        samples: int16 [channels, n].
        codec: audio codec.
        frames: black pictures, 25 per second, with keyframes every 20.
        flashes: times of white pictures.
        delay: seconds by which the audio begins after the pictures; negative if pictures begin later.
        rate: sample rate of the audio.
    """
    packets: list[tuple[float, av.Packet]] = []
    with av.open(str(path), "w") as container:
        if frames:
            video = container.add_stream("libx264", rate=FPS, options={"x264-params": "keyint=20:scenecut=0:bframes=2"})
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            white = {round(moment * FPS) for moment in flashes or []}
        if samples is not None:
            layout = "mono" if len(samples) == 1 else "stereo"
            sound = container.add_stream(codec, rate=rate, layout=layout)
        if frames:
            late = round(max(-delay, 0) * FPS)
            for number in range(frames):
                shade = 255 if number in white else 0
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number + late, Fraction(1, FPS)
                packets += [(float(packet.dts * packet.time_base), packet) for packet in video.encode(frame)]
            packets += [(float(packet.dts * packet.time_base), packet) for packet in video.encode(None)]
        if samples is not None:
            for first in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, first : first + 1024].T).reshape(1, -1)
                block = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
                block.sample_rate, block.time_base = rate, Fraction(1, rate)
                block.pts = first + round(max(delay, 0) * rate)
                packets += [(float(packet.dts * packet.time_base), packet) for packet in sound.encode(block)]
            packets += [(float(packet.dts * packet.time_base), packet) for packet in sound.encode(None)]
        for _, packet in sorted(packets, key=lambda one: one[0]):
            container.mux(packet)
    return path

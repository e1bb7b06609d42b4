"""Samplers and crops draw exactly the same numbers as the functions that they replaced.

The hashes were computed with those functions (`choose_frames`, `choose_views`, `draw_box` and `view_boxes` of commit 237e7cf)
with the loops below; they include the next number of the generator.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from datamodules.video.crops import Centre, Crop, MultiScale, RandomResized, Square, Stretched, view_boxes
from datamodules.video.readers import VideoInfo
from datamodules.video.samplers import Dense, Jittered, Sampler, Segments, Spanning, Timed
from datamodules.video.sampling import ClipSettings

LENGTHS = [1, 2, 5, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 66, 100, 129, 300, 1001]
SIZES = [(340, 256), (256, 340), (320, 240), (1920, 1080), (80, 640), (223, 301), (31, 17), (3, 2), (1, 1)]
SEEDS = [None, 0, 1, 2]
SAMPLERS = [
    (Dense(4), "0b43d6809480f0ad"),
    (Dense(1), "fae44c844f38032b"),
    (Jittered(4), "fe3b8c2efa1c9a2a"),
    (Segments(), "c281646977cdf7e7"),
    (Segments("spread"), "78d8725d3d56501e"),
    (Spanning(4), "5ade837d8276fbc5"),
    (Spanning(2), "2324e8ecb8a45f66"),
    (Timed(16.0), "521d5c804fa516c2"),
    (Timed(3.0), "55bac3d80549432f"),
]
CROPS = [
    (MultiScale(), "0c171a0cded109b3"),
    (RandomResized((0.08, 1.0)), "c34bbac0ef89e5a9"),
    (RandomResized((0.5, 1.0), (0.5, 2.0), 0.875), "bdbeb4dd81c5cb42"),
    (Stretched(), "75c5fc037395f74f"),
    (Square((0.3294, 0.4375)), "0c0ed02372b1562b"),
    (Centre(0.7), "9cad98e25fc05747"),
]
TOGETHER = [
    (Dense(2), MultiScale(), "db35aa802a3c9c4a"),
    (Jittered(4), Stretched(), "57e534bbcf244061"),
    (Spanning(4), RandomResized((0.25, 1.0)), "8b5fc7d02d5a0e93"),
    (Segments(), RandomResized((0.08, 1.0)), "e130ab50ecb2d70d"),
    (Timed(16.0), Square((0.3, 0.5)), "0e45cf97556c41a1"),
]


def digest(numbers: Iterator[object]) -> str:
    found = hashlib.sha256()
    for one in numbers:
        found.update(np.array(one, "<i8").tobytes())
    return found.hexdigest()[:16]


def info(length: int, fps: float) -> VideoInfo:
    return VideoInfo(length, fps, 340, 256)


@pytest.mark.parametrize(("sampler", "expected"), SAMPLERS, ids=str)
def test_frames(sampler: Sampler, expected: str) -> None:
    def numbers() -> Iterator[object]:
        for frames in (4, 16):
            for clips in (1, 3):
                for length in LENGTHS:
                    for fps in (12.5, 29.97):
                        for seed in SEEDS:
                            rng = None if seed is None else np.random.default_rng(seed)
                            yield sampler.draw(info(length, fps), clips, frames, rng)
                            if rng is not None:
                                yield rng.integers(2**62)
                        for segments in (1, 2, 5, 10):
                            yield sampler.views(info(length, fps), segments, frames)

    assert digest(numbers()) == expected


@pytest.mark.parametrize(("crop", "expected"), CROPS, ids=str)
def test_boxes(crop: Crop, expected: str) -> None:
    def numbers() -> Iterator[object]:
        for size in (32, 112, 224):
            for width, height in SIZES:
                for seed in SEEDS:
                    if seed is None:
                        yield view_boxes(width, height, 1, crop.centre) * 12
                        continue
                    rng = np.random.default_rng(seed)
                    yield crop.boxes(width, height, size, 4, 3, rng)
                    yield rng.integers(2**62)
                for crops in (1, 3, 5):
                    yield view_boxes(width, height, crops, crop.centre)

    assert digest(numbers()) == expected


@pytest.mark.parametrize(("sampler", "crop", "expected"), TOGETHER, ids=str)
def test_frames_and_then_the_boxes_of_all_views(sampler: Sampler, crop: Crop, expected: str) -> None:
    clip = ClipSettings(size=112, clips=2, repeat=3, sampler=sampler, crop=crop)

    def numbers() -> Iterator[object]:
        for length in LENGTHS:
            for seed in range(5):
                rng = np.random.default_rng(seed)
                yield clip.choose(info(length, 25.0), rng)
                yield crop.boxes(320, 240, clip.size, clip.clips, clip.repeat, rng)

    assert digest(numbers()) == expected

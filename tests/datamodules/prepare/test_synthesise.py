"""Videos of generated motion contain the generated clips."""

from pathlib import Path

import pytest
import torch

from datamodules.folder import VideoFolder
from datamodules.prepare.synthesise import write_videos
from datamodules.settings import ReadSettings
from datamodules.video.crops import Centre
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.objects import make_clips


def test_written_videos_read_back(tmp_path: Path) -> None:
    frames, size, counts = 8, 64, {"train": 13, "val": 13}
    write_videos(tmp_path, 13, 13, frames, size, backgrounds=["gradient"], seed=3)
    clip = ClipSettings(frames=frames, sampler=Dense(1), size=size, crop=Centre())
    data = VideoFolder(str(tmp_path), clip=clip, batch_size=13, reading=ReadSettings(0), seed=0)
    data.setup("fit")
    assert data.class_names == sorted(c.name for c in MOTION_CLASSES)
    for split, loader in (("train", data.probe_dataloader()), ("val", data.val_dataloader())):
        made = make_clips(counts[split], frames, size, split, 3, ["gradient"])
        batch = next(iter(loader))
        # Every class has one video, so the name of the class finds the clip.
        names = [MOTION_CLASSES[int(number)].name for number in made.motion]
        order = [names.index(data.class_names[int(label)]) for label in batch.label]
        assert sorted(order) == list(range(13))
        error = (batch.stream("video").data[:, 0].float() - made.video[order].float()).abs().mean((1, 2, 3, 4))
        # Colours are stored at half the resolution, so edges differ.
        assert error.max() < 6, f"{split}: {error}"
        # Neighbouring frames differ more from each other than from what was written, otherwise a wrong order would not be
        # noticed.
        other = (batch.stream("video").data[:, 0].roll(1, 1).float() - made.video[order].float()).abs().mean((1, 2, 3, 4))
        assert (error < other).all()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    # With x264's macroblock trees, one pair of files in twenty differs.
    for name in ("first", "second"):
        write_videos(tmp_path / name, 60, 0, 32, 64, backgrounds=["black"], seed=0, classes=["right", "left", "up", "down"])
    first, second = (sorted((tmp_path / name).rglob("*.mp4")) for name in ("first", "second"))
    assert len(first) == 60
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_sizes_that_codecs_refuse(tmp_path: Path) -> None:
    for size in (15, 33, 8):
        with pytest.raises(SettingError, match="size is"):
            write_videos(tmp_path, 1, 1, 8, size)
    assert not list(tmp_path.iterdir())


def test_some_classes(tmp_path: Path) -> None:
    write_videos(tmp_path, 3, 2, 8, 32, seed=3, classes=["down", "grow"])
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    expected = ["train/down/00000", "train/down/00002", "train/grow/00001", "val/down/00000", "val/grow/00001"]
    assert found == [f"{name}.mp4" for name in expected]
    made = make_clips(4, 8, 32, "val", 3, classes=[3, 6])
    assert [MOTION_CLASSES[number].name for number in made.motion.tolist()] == ["down", "grow", "down", "grow"]
    assert torch.equal(make_clips(4, 8, 32, "val", 3, classes=range(13)).video, make_clips(4, 8, 32, "val", 3).video)


def test_classes_that_there_are_not(tmp_path: Path) -> None:
    for classes in ([], ["sideways"], ["up", "up"]):
        with pytest.raises(SettingError, match="--classes is"):
            write_videos(tmp_path, 1, 1, 8, 32, classes=classes)
    with pytest.raises(SettingError, match="motion without classes"):
        write_videos(tmp_path, 1, 1, 8, 32, captions=True, classes=["up"])
    assert not list(tmp_path.iterdir())

"""A worker's memory does not grow with the number of videos that it has read."""

import os
from pathlib import Path

import pytest

from datamodules.folder import VideoFolder
from datamodules.settings import ReadSettings
from datamodules.video.sampling import ClipSettings
from modules.core.undocumented import workers
from tests.datamodules.video_files import write_video

SIZES = [(64, 48), (160, 120), (320, 240), (240, 320), (426, 240)]
VIDEOS, EARLY, BATCH = 1000, 200, 10
# 5 kB per video between the two measurements; the cached facts of a file (`pyav_reader.MAX_REMEMBERED`) takes 1 kB.
MOST = 4 * 2**20


def own_memory(process: int) -> int:
    """Unshared bytes of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="asks Linux for the memory of a process")
def test_memory_of_a_worker_is_flat_over_a_thousand_videos(tmp_path: Path) -> None:
    files = [write_video(tmp_path / f"{width}x{height}.mp4", size=(width, height)) for width, height in SIZES]
    folder = tmp_path / "videos" / "train" / "class"
    folder.mkdir(parents=True)
    for number in range(VIDEOS):
        # The same contents under a thousand names, so that a worker that keeps something by name keeps a thousand.
        os.link(files[number % len(files)], folder / f"{number:04d}.mp4")
    clip = ClipSettings(frames=8, size=64, clips=2)
    data = VideoFolder(str(tmp_path / "videos"), clip=clip, batch_size=BATCH, reading=ReadSettings(1), seed=1)
    data.setup("fit")
    loader = data.train_dataloader()
    memory = {}
    for number, _ in enumerate(loader, 1):
        if number * BATCH in (EARLY, VIDEOS):
            memory[number * BATCH] = own_memory(workers(loader)[0].pid or 0)
    print({videos: f"{used / 2**20:.1f} MiB" for videos, used in memory.items()})
    assert memory[VIDEOS] - memory[EARLY] < MOST

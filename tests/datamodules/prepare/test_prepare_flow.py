"""`python main.py prepare flow`: computing and storing, resuming after a kill, and reading flow with the videos."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.optical_flow import raft_small

import datamodules.prepare.flow
from datamodules import VideoFolder
from datamodules.prepare.flow import Classical, Raft, frames_of, load_raft, write_array
from datamodules.settings import ReadSettings
from datamodules.streams.planes import FlowReader
from datamodules.streams.settings import FlowSettings, StreamSettings
from datamodules.video.decode import DecodeError
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from main import main
from modules.core.errors import SettingError
from tests.datamodules.sets.trees import put, ready
from tests.datamodules.streams.test_planes import save_all, waves, whole, write_grey
from tests.datamodules.video_files import decode_all, shorten, write_video
from tests.test_readme import words


class Fake:
    """Instead of OpenCV's algorithms: flow to the right, by the increase in brightness."""

    def calc(self, first: np.ndarray, second: np.ndarray, flow: None) -> np.ndarray:
        found = np.zeros((*first.shape, 2), np.float32)
        found[..., 0] = second.mean() - first.mean()
        return found


@pytest.fixture
def fake_opencv(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    fake: Any = ModuleType("cv2")
    fake.setNumThreads = lambda count: None
    fake.COLOR_RGB2GRAY, fake.DISOPTICAL_FLOW_PRESET_MEDIUM = 0, 1
    fake.cvtColor = lambda frame, code: frame.mean(-1)
    fake.DISOpticalFlow_create = lambda preset: Fake()
    monkeypatch.setitem(sys.modules, "cv2", fake)
    monkeypatch.setattr("modules.core.files._flush", lambda path: None)
    return fake


def prepare(root: Path, out: Path, *more: str) -> None:
    main(["prepare", "flow", f"--root={root}", f"--out={out}", "--short_side=24", "--workers=0", *more])


def rows_of(table: Path) -> list[list[str]]:
    with table.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two videos that get brighter by 3 and by 5 a frame, one that breaks off, and a folder of pictures."""
    root = tmp_path / "videos"
    for number, step in enumerate((3, 5)):
        frames = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * step + 40, (9, 48, 64, 3))
        (root / f"class {number}").mkdir(parents=True)
        write_grey(root / f"class {number}/bright.v{number}.mp4", np.ascontiguousarray(frames))
    shorten(write_video(root / "class 0/broken.mp4"), 4000)
    save_all(root / "class 1/pictures.x", frames[:4])
    return root


def test_flow_of_every_video_is_stored_and_broken_ones_are_listed(
    videos: Path, tmp_path: Path, fake_opencv: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flow"
    prepare(videos, out)
    assert rows_of(out / "manifest.tsv") == [
        *(["class 0/bright.v0.npy", "8", ""], ["class 1/bright.v1.npy", "8", ""], ["class 1/pictures.x.npy", "3", ""]),
    ]  # fmt: skip
    ((source, _, reason),) = rows_of(out / "malformed.tsv")
    assert source == "class 0/broken.mp4"
    assert reason
    flow = np.load(out / "class 1/bright.v1.npy", allow_pickle=False)
    assert (flow.dtype, flow.shape) == (np.float16, (8, 24, 32, 2))
    np.testing.assert_allclose(flow[..., 0].mean(), 5, atol=0.2)
    assert "1 are missing or broken" in capsys.readouterr().out


def test_a_finished_folder_is_not_done_again(
    videos: Path, tmp_path: Path, fake_opencv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "flow"
    prepare(videos, out)
    made: list[str] = []
    make = datamodules.prepare.flow.make_flow

    def noting(job: Any, **settings: Any) -> Any:
        made.append(job.source)
        return make(job, **settings)

    monkeypatch.setattr(datamodules.prepare.flow, "make_flow", noting)
    (out / "class 1/bright.v1.npy").unlink()
    prepare(videos, out)
    # Failed files are tried again, and missing ones are made again.
    assert made == ["class 0/broken.mp4", "class 1/bright.v1.mp4"]
    made.clear()
    # No partial file is left, and files with other settings are not mixed with them.
    assert {path.name for path in (out / "class 0").iterdir()} == {"bright.v0.npy"}
    with pytest.raises(SettingError, match="contains flow with other settings"):
        prepare(videos, out, "--short_side=16")


def test_pictures_hold_flow_up_to_a_bound(
    videos: Path, tmp_path: Path, fake_opencv: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flow"
    prepare(videos, out, "--store=pictures", "--bound=4")
    assert "In 2 of 3 videos some flow exceeds --bound" in (said := capsys.readouterr().out)
    assert "50 % of a video's values" in said
    assert len(list((out / "class 0/bright.v0").glob("flow_[xy]_0000[1-8].jpg"))) == 16
    reader = FlowReader(FlowSettings(bound=4), None)
    for folder, pixels in (("class 0/bright.v0", 3), ("class 1/bright.v1", 4)):
        flow = reader.read(out / folder, whole(64, 48, 9, list(range(8))), 24).data.float()
        # 24 of the clip's pixels are 64 of the video's, that is 32 of those that flow was computed on.
        torch.testing.assert_close(flow[..., 0].mean(), torch.tensor(pixels * 24 / 32), atol=0.1, rtol=0)
        torch.testing.assert_close(flow[..., 1].mean(), torch.tensor(0.0), atol=0.03, rtol=0)


@pytest.mark.parametrize("store", ["array", "pictures"])
def test_a_folder_of_videos_is_read_with_its_flow(store: str, videos: Path, tmp_path: Path, fake_opencv: ModuleType) -> None:
    prepare(videos, tmp_path / "flow", f"--store={store}")
    flow = FlowSettings(folder=str(tmp_path / "flow"))
    data = ready(
        VideoFolder(
            str(videos),
            clip=ClipSettings(frames=4, size=16, sampler=Dense(1)),
            batch_size=3,
            reading=ReadSettings(0),
            seed=1,
            streams=StreamSettings(names=["video", "flow"], flow=flow),
        )
    )
    assert data.streams == {"video": "video", "flow": "flow"}
    batch = next(iter(data.train_dataloader()))
    stream = batch.stream("flow")
    assert (stream.data.shape, stream.data.dtype) == ((3, 1, 4, 16, 16, 2), torch.float16)
    bright = (batch.label == 0) & (batch.substituted < 0)
    assert stream.valid is not None
    # Resized from boxes of at least half the picture.
    assert (stream.data[bright][stream.valid[bright]][..., 0].float() > 0.5).all()
    other = StreamSettings(names=["flow"], flow=FlowSettings(bound=3, folder=str(tmp_path / "flow")))
    if store == "pictures":
        with pytest.raises(SettingError, match=r"data\.streams\.flow\.bound is 3, but the flow in .* was stored with 20"):
            ready(VideoFolder(str(videos), streams=other))
    with pytest.raises(SettingError, match=r"data\.streams\.flow\.folder is null; set it to the folder"):
        ready(VideoFolder(str(videos), streams=StreamSettings(names=["video", "flow"])))


def test_files_of_the_same_name_in_two_splits_have_their_own_flow(tmp_path: Path, fake_opencv: ModuleType) -> None:
    for split, step in (("train", 2), ("val", 6)):
        frames = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None] * step + 40, (9, 48, 48, 3))
        (tmp_path / f"videos/{split}/class").mkdir(parents=True)
        write_grey(tmp_path / f"videos/{split}/class/0.mp4", np.ascontiguousarray(frames))
    prepare(tmp_path / "videos", tmp_path / "flow")
    data = VideoFolder(
        str(tmp_path / "videos"),
        clip=ClipSettings(frames=4, size=24),
        batch_size=1,
        reading=ReadSettings(0),
        streams=StreamSettings(names=["video", "flow"], flow=FlowSettings(folder=str(tmp_path / "flow"))),
    )
    data.setup("fit")
    found = [next(iter(loader)).stream("flow") for loader in (data.train_dataloader(), data.val_dataloader())]
    (slow, fast) = (float(one.data[one.valid][..., 0].float().max()) for one in found)
    assert 2 < fast / slow < 4


@pytest.fixture
def raft_weights(tmp_path: Path) -> Iterator[Path]:
    """Random weights, and one thread: RAFT is a long chain of small steps, for which threads that wait for a core are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    yield tmp_path / "raft.pth"
    torch.set_num_threads(threads)


def test_raft_computes_what_torchvision_does_whatever_the_batch(raft_weights: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 128, 136, 3), dtype=np.uint8)
    frames[:, :, 133:] = frames[:, :, 132:133]
    raft = Raft(raft_weights, "cpu", 1)
    flow = np.stack(list(raft(frames[:, :, :133])))
    assert flow.shape == (2, 128, 133, 2)
    network = load_raft(raft_weights).eval()
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = network((clip[:-1] - 0.5) / 0.5, (clip[1:] - 0.5) / 0.5)[-1].permute(0, 2, 3, 1)
    np.testing.assert_allclose(flow, expected[:, :, :133], atol=1e-3 * float(expected.abs().max()))


def test_raft_goes_from_the_command_to_files(raft_weights: Path, tmp_path: Path) -> None:
    save_all(tmp_path / "frames/one", waves(3, 64, 48, (2, 1)))
    prepare(tmp_path / "frames", tmp_path / "flow", "--method=raft", f"--weights={raft_weights}", "--device=cpu")
    assert rows_of(tmp_path / "flow/manifest.tsv") == [["one.npy", "2", ""]]
    assert np.load(tmp_path / "flow/one.npy", allow_pickle=False).shape == (2, 24, 32, 2)
    with pytest.raises(SettingError, match="--device nonsense cannot be used"):
        Raft(raft_weights, "nonsense", 1)


@pytest.mark.parametrize("method", ["dis", "tvl1"])
def test_opencv_finds_how_a_pattern_moves(method: str) -> None:
    cv2 = pytest.importorskip("cv2", reason='OpenCV is missing; run pip install -e ".[flow]"')
    if method == "tvl1" and not hasattr(cv2, "optflow"):
        pytest.skip("this build of OpenCV has no TV-L1; install opencv-contrib-python-headless")
    (flow,) = Classical(method)(waves(2, 64, 48, (2, -1)))
    np.testing.assert_allclose(flow[12:36, 16:48].mean((0, 1)), (2, -1), atol=0.3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--method=raft", "--method raft needs --weights"),
        ("--method=dis --weights={tmp}/no.pth", "--weights is .* but --method dis uses none"),
        ("--method=raft --weights={tmp}/no.pth", "--weights .*no.pth cannot be read"),
        ("--method=raft --weights={tmp}/other.pth", "contains no state dict of torchvision's raft_large or raft_small"),
        ("--method=raft --weights={tmp}/run.pth", "could run code and is not read"),
        ("--method=dis", r'--method dis needs opencv-contrib-python-headless; run pip install -e "\.\[flow\]"'),
        ("--bound=0", "--bound is 0"),
        ("--out={videos}/flow", "is in --root"),
        ("--root={tmp}/nowhere", "--root is .*nowhere, which is not a folder"),
    ],
)
def test_what_is_refused(more: str, message: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save({"weight": sys.exit}, tmp_path / "run.pth")
    with pytest.raises(SettingError, match=message):
        prepare(videos, tmp_path / "flow", *more.format(tmp=tmp_path, videos=videos).split())
    assert not (tmp_path / "flow").exists()


def test_the_documented_command(
    one_video: Path, tmp_path: Path, fake_opencv: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(one_video, tmp_path / "data/motion/train/one.mp4")
    (command,) = words("python main.py prepare flow")
    main([*command, "--workers=1"])
    assert rows_of(tmp_path / "data/flow/manifest.tsv") == [["train/one.npy", "39", ""]]


def test_pictures_of_one_video_within_those_of_another_are_refused(
    one_video: Path, tmp_path: Path, fake_opencv: ModuleType
) -> None:
    put(one_video, tmp_path / "videos/a.mp4")
    put(one_video, tmp_path / "videos/a/b.mp4")
    with pytest.raises(SettingError, match=r"The flow of a/b\.mp4 would be inside the folder of that of a\.mp4"):
        prepare(tmp_path / "videos", tmp_path / "flow", "--store=pictures")
    prepare(tmp_path / "videos", tmp_path / "flow")
    assert len(rows_of(tmp_path / "flow/manifest.tsv")) == 2


def test_without_contrib_there_is_no_tvl1(fake_opencv: ModuleType) -> None:
    with pytest.raises(SettingError, match=r"--method tvl1 needs opencv-contrib-python-headless"):
        Classical("tvl1").create()


def test_frames_come_upright_and_small(tmp_path: Path, one_video: Path) -> None:
    frames = list(frames_of(one_video, 1000))
    for frame, expected in zip(frames, decode_all(one_video), strict=True):
        assert np.array_equal(frame, expected)
    assert next(frames_of(one_video, 24)).shape == (24, 32, 3)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "2.png")
    with pytest.raises(DecodeError, match="frame size changes"):
        list(frames_of(tmp_path, 24))


def test_arrays_grow_to_any_length(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(size=(1234, 3, 5, 2)).astype(np.float32)
    assert write_array(tmp_path / "a.npy", iter(flow)) == 1234
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), flow.astype(np.float16))
    with pytest.raises(DecodeError, match="too short"):
        write_array(tmp_path / "b.npy", iter(()))
    with pytest.raises(DecodeError, match="not numbers"):
        write_array(tmp_path / "b.npy", iter([np.full((3, 5, 2), 1e6)]))

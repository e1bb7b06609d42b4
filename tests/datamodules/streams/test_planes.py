"""Flow, depth and masks from files: all storage formats, cropping by the plan, and refused files."""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.lists.manifest import Manifest
from datamodules.lists.packed import PackedStrings
from datamodules.loading.loader import SampleKey
from datamodules.streams.dataset import StreamDataset, Wanted
from datamodules.streams.planes import DepthReader, FlowReader, FurtherVideo, MaskReader
from datamodules.streams.readers import make_reader
from datamodules.streams.settings import DepthSettings, FlowSettings, MaskSettings, StreamSettings
from datamodules.streams.stored import FLO_MAGIC
from datamodules.video.crops import Box, RandomResized
from datamodules.video.decode import DecodeError
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.batch import join_streams
from modules.core.errors import SettingError

REAL = Path(os.environ.get("REAL_DIR", Path(__file__).parents[4] / "shared" / "real"))
PLAIN = DepthSettings()
UTD = DepthSettings(scale=-1400 / 215, shift=2000 + 255 * 1400 / 215, least=20)


def plan_of(frames: list[int], boxes: list[Box], picture: tuple[int, int], length: int, fps: float = 10.0) -> Plan:
    """Every box shows the same frames."""
    numbers = np.array([frames] * len(boxes))
    moments = (numbers / fps).astype(np.float32)
    return Plan(numbers, moments, moments[:, [0, -1]], boxes, picture, length)


def whole(width: int, height: int, length: int, frames: list[int] | None = None) -> Plan:
    """One view of whole pictures."""
    return plan_of(list(range(length)) if frames is None else frames, [Box(0, 0, width, height)], (width, height), length)


def save_all(folder: Path, arrays: np.ndarray, name: str = "{:05d}.png", first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays, first):
        Image.fromarray(array).save(folder / name.format(number))
    return folder


def write_flo(path: Path, flow: np.ndarray) -> None:
    height, width = flow.shape[:2]
    path.write_bytes(FLO_MAGIC + struct.pack("<ii", width, height) + flow.astype("<f4").tobytes())


def write_grey(path: Path, frames: np.ndarray, pix_fmt: str = "yuv420p", codec: str = "libx264") -> Path:
    """A video of grey pictures, nearly without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options={"crf": "1"} if codec == "libx264" else {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="gray16le" if frame.dtype == np.uint16 else "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


CODES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 2), dtype=np.uint8)
FLOW = (CODES * np.float32(40 / 255) - 20).astype(np.float32)


def as_folders(root: Path) -> Path:
    for axis, name in enumerate("uv"):
        save_all(root / name, CODES[..., axis])
    return root


def as_prefixes(root: Path) -> Path:
    for axis, name in enumerate("xy"):
        save_all(root, CODES[..., axis], f"flow_{name}_{{:05d}}.png", first=1)
    # As written by common tools.
    return save_all(root, np.zeros((5, 8, 8, 3), np.uint8), "img_{:05d}.png", first=1)


def as_flo(root: Path) -> Path:
    root.mkdir()
    for number, flow in enumerate(FLOW):
        write_flo(root / f"{number}.flo", flow)
    return root


def as_array(root: Path) -> Path:
    np.save(root.with_suffix(".npy"), FLOW.astype(np.float16))
    # Lists may omit the suffix.
    return root


def as_packed(root: Path) -> Path:
    np.savez(root.with_suffix(".npz"), flow=FLOW)
    return root.with_suffix(".npz")


@pytest.mark.parametrize("store", [as_folders, as_prefixes, as_flo, as_array, as_packed])
def test_flow_is_the_same_however_it_is_stored(store: Callable[[Path], Path], tmp_path: Path) -> None:
    source = store(tmp_path / "flow")
    reader = FlowReader(FlowSettings(), None)
    assert (reader.info(source).num_frames, reader.info(source).width) == (4, 8)
    # A video of five frames has four fields, and none for its last frame.
    stream = reader.read(source, whole(8, 8, 5), 8)
    assert (stream.kind, stream.data.dtype, stream.data.shape) == ("flow", torch.float16, (1, 5, 8, 8, 2))
    torch.testing.assert_close(stream.data[0, :4].float(), torch.from_numpy(FLOW), atol=0.016, rtol=0)
    assert stream.valid is not None
    assert stream.valid.tolist() == [[True, True, True, True, False]]
    assert not stream.data[0, 4].any()
    # Frames that a clip repeats or leaves out.
    again = reader.read(source, whole(8, 8, 5, [2, 0, 2]), 8).data
    assert torch.equal(again[0], stream.data[0, [2, 0, 2]])


def test_flow_counts_in_pixels_of_the_clip(tmp_path: Path) -> None:
    np.save(tmp_path / "flow.npy", np.full((3, 10, 20, 2), (3, -2), np.float32))
    # The video is twice as large: 20 x 10 of its pixels are 10 x 5 of the file's, and become 5 x 5.
    plan = plan_of([0, 1], [Box(10, 4, 20, 10), Box(0, 0, 40, 20)], (40, 20), 3)
    flow = FlowReader(FlowSettings(), None).read(tmp_path / "flow.npy", plan, 5).data.float()
    assert flow[0, ..., 0].unique().tolist() == [1.5]
    assert flow[0, ..., 1].unique().tolist() == [-2.0]
    torch.testing.assert_close(flow[1, 0, 0, 0], torch.tensor([0.75, -1.0]))


def waves(count: int, width: int, height: int, step: tuple[int, int]) -> np.ndarray:
    """Smooth pictures that move by a step from each frame to the next one, uint8 [N, h, w, 3]."""
    y, x = np.mgrid[:height, :width].astype(float)
    frames = [128 + 60 * np.sin((x - n * step[0]) / 6) + 60 * np.cos((y - n * step[1]) / 7) for n in range(count)]
    return np.repeat(np.stack(frames).round().clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def test_flow_leads_from_each_frame_of_the_clip_to_the_next(tmp_path: Path) -> None:
    """Video and flow, cut by one plan and resized by other factors across and down, match within one grey level."""
    save_all(tmp_path / "video", waves(6, 64, 48, (2, 1)))
    np.save(tmp_path / "flow.npy", np.full((5, 48, 64, 2), (2, 1), np.float16))
    manifest = Manifest(
        tmp_path, PackedStrings(["video"]), np.array([0]), further={"flow": PackedStrings(["flow.npy"])}, fps=10.0
    )
    clip = ClipSettings(frames=4, size=24, clips=3, sampler=Dense(1), crop=RandomResized((0.4, 0.6), (0.5, 2.0)))
    kinds = {"video": "video", "flow": "flow"}
    data = StreamDataset(manifest, clip, 3, True, Wanted(kinds, {"flow": FlowReader(FlowSettings(), None)}))
    sample = data[SampleKey(0, 0)]
    video, flow = sample["video"].float().mean(-1), sample["streams"]["flow"].data.float()
    scales = flow[:, 0, 0, 0]
    assert (scales[:, 0] != 2).all()
    assert (scales[:, 0] / 2 != scales[:, 1]).any()
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    for view in range(3):
        for frame in range(3):
            x, y = columns + flow[view, frame, ..., 0], rows + flow[view, frame, ..., 1]
            grid = torch.stack([x, y], -1) / 23 * 2 - 1
            moved = torch.nn.functional.grid_sample(video[None, None, view, frame + 1], grid[None], align_corners=True)[0, 0]
            inside = (x <= 23) & (y <= 23)
            assert inside.float().mean() > 0.5
            still = (video[view, frame + 1] - video[view, frame])[inside].abs().mean()
            assert (moved - video[view, frame])[inside].abs().mean() < 0.1 * still


def test_depth_stays_on_one_side_of_an_edge(tmp_path: Path) -> None:
    depth = np.full((3, 30, 30), 1000, np.uint16)
    depth[:, :, 13:] = 3000
    depth[:, :5] = 0
    source = save_all(tmp_path / "depth", depth, "MDepth-{:08d}.png", first=1)
    np.save(tmp_path / "depth.npy", depth)
    np.save(tmp_path / "metres.npy", np.where(depth == 0, np.nan, depth / 1000).astype(np.float32))
    plan = whole(30, 30, 3)
    stream = DepthReader(PLAIN).read(source, plan, 7)
    assert (stream.kind, stream.data.dtype, stream.data.shape) == ("depth", torch.uint16, (1, 3, 7, 7, 1))
    assert sorted(stream.data.int().unique().tolist()) == [0, 1000, 3000]
    assert torch.equal(DepthReader(PLAIN).read(tmp_path / "depth.npy", plan, 7).data, stream.data)
    assert torch.equal(DepthReader(DepthSettings(scale=1000)).read(tmp_path / "metres.npy", plan, 7).data, stream.data)
    # Pixels of the file under the centres of those of the clip.
    assert stream.data[0, 0, :, 0, 0].tolist() == [0, *[1000] * 6]
    assert stream.data[0, 0, 3, :, 0].tolist() == [1000, 1000, 1000, 3000, 3000, 3000, 3000]
    joined = join_streams([stream, DepthReader(PLAIN).nothing(plan, 7)])
    assert (joined.data.dtype, joined.data.shape) == (torch.uint16, (2, 1, 3, 7, 7, 1))
    assert joined.valid is not None
    assert joined.valid.all(-1).flatten().tolist() == [True, False]


def test_depth_that_does_not_say_what_it_means_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "metres.npy", np.full((2, 8, 8), 1.5, np.float32))
    source = save_all(tmp_path / "grey", np.full((2, 8, 8), 100, np.uint8))
    for path in (tmp_path / "metres.npy", source):
        with pytest.raises(SettingError, match=r"data\.streams\.depth\.scale .*1000 for metres"):
            DepthReader(PLAIN).read(path, whole(8, 8, 2), 8)
    with pytest.raises(DecodeError, match="not numbers"):
        DepthReader(DepthSettings(scale=1e5)).read(tmp_path / "metres.npy", whole(8, 8, 2), 8)
    with pytest.raises(SettingError, match=r"data\.streams\.depth\.scale is 0"):
        DepthSettings(scale=0)


def test_depth_in_a_video_has_a_scale_and_a_shift(tmp_path: Path) -> None:
    values = np.kron(np.array([[0, 40], [150, 255]], np.uint8), np.ones((16, 16), np.uint8))
    source = write_grey(tmp_path / "depth.mp4", np.repeat(np.stack([values] * 4)[..., None], 3, -1))
    reader = DepthReader(UTD)
    assert (reader.info(source).num_frames, reader.info(source).fps) == (4, 30)
    depth = reader.read(source, whole(32, 32, 4), 2).data[0, 2, ..., 0].int()
    expected = [[0, 3400], [2000 + (255 - 150) * 1400 / 215, 2000]]
    torch.testing.assert_close(depth.float(), torch.tensor(expected), atol=1.5 * 1400 / 215, rtol=0)
    assert depth[0, 0] == 0
    with pytest.raises(SettingError, match=r"data\.streams\.depth\.scale"):
        DepthReader(PLAIN).read(source, whole(32, 32, 4), 2)


def test_videos_that_hold_no_depth_of_8_bits_are_refused(tmp_path: Path) -> None:
    deep = write_grey(tmp_path / "deep.mkv", np.full((3, 32, 32), 3000, np.uint16), "gray16le", "ffv1")
    colour = np.zeros((3, 32, 32, 3), np.uint8)
    colour[..., 0] = 200
    for source in (deep, write_grey(tmp_path / "colour.mp4", colour)):
        with pytest.raises(DecodeError, match="another format"):
            DepthReader(UTD).read(source, whole(32, 32, 3), 8)


def test_real_depth_lies_where_the_body_is() -> None:
    source = REAL / "utd_mhad" / "depth" / "arm_cross" / "a06_s1_t1.mp4"
    if not source.is_file():
        pytest.skip(f"{source} is missing; set REAL_DIR")
    reader = DepthReader(UTD)
    info = reader.info(source)
    depth = reader.read(source, whole(info.width, info.height, info.num_frames, [0, 20, 40]), 64).data.float()
    measured = depth > 0
    assert 0.05 < measured.float().mean() < 0.5
    # The body is before the empty background, at 2 to 3.4 m; lossy coding blurs its edge.
    assert ((depth[measured] > 1950) & (depth[measured] < 3420)).float().mean() > 0.95


def numbered_masks(root: Path, mode: str) -> Path:
    """Two objects, 1 and 2, as pictures of a mode."""
    masks = np.zeros((3, 12, 16), np.uint8)
    masks[:, 2:6, 2:6], masks[:, 6:10, 8:14] = 1, 2
    root.mkdir()
    for number, mask in enumerate(masks):
        picture = Image.fromarray(mask)
        if mode == "P":
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
        picture.save(root / f"{number:05d}.png")
    return root


@pytest.mark.parametrize("mode", ["P", "L"])
def test_masks_number_their_objects(mode: str, tmp_path: Path) -> None:
    source = numbered_masks(tmp_path / "masks", mode)
    plan = whole(16, 12, 3)
    plan.boxes[0] = Box(2, 0, 12, 12)
    several = MaskReader(MaskSettings(3), None).read(source, plan, 12)
    assert (several.kind, several.data.dtype, several.data.shape) == ("mask", torch.bool, (1, 3, 12, 12, 3))
    assert several.data[0, 0].sum((0, 1)).tolist() == [16, 24, 0]
    assert several.data[0, 0, 2:6, 0:4, 0].all()
    one = MaskReader(MaskSettings(), None).read(source, plan, 12).data
    assert torch.equal(one[..., 0], several.data.any(-1))
    with pytest.raises(DecodeError, match=r"another width .*an object 3, but data\.streams\.mask\.objects"):
        MaskReader(MaskSettings(2), None).checked(np.full((1, 2, 2, 1), 3))


def test_masks_of_0_and_255(tmp_path: Path) -> None:
    mask = np.zeros((2, 8, 8), np.uint8)
    mask[:, 3:] = 255
    source = save_all(tmp_path / "masks", mask)
    assert MaskReader(MaskSettings(), None).read(source, whole(8, 8, 2), 8).data.float().mean() == 5 / 8
    np.save(tmp_path / "masks.npy", mask > 0)
    assert MaskReader(MaskSettings(), None).read(tmp_path / "masks.npy", whole(8, 8, 2), 4).data.float().mean() == 3 / 4


def test_another_rate_needs_a_setting(tmp_path: Path) -> None:
    depth = np.arange(1, 7, dtype=np.uint16)[:, None, None] * np.ones((8, 8), np.uint16)
    np.save(tmp_path / "depth.npy", depth)
    plan = plan_of([0, 2, 6, 10, 12, 15], [Box(0, 0, 8, 8)], (8, 8), 20, fps=10)
    with pytest.raises(DecodeError, match=r"another rate .*6 frames for 20 of the video; data\.streams\.depth\.fps"):
        DepthReader(PLAIN).read(tmp_path / "depth.npy", plan, 8)
    stream = DepthReader(replace(PLAIN, fps=5.0)).read(tmp_path / "depth.npy", plan, 8)
    # At 0, 0.2, 0.6 and 1 s there are frames 0, 1, 3 and 5, and then none.
    assert stream.data[0, :, 0, 0, 0].tolist() == [1, 2, 4, 6, 0, 0]
    assert stream.valid is not None
    assert stream.valid.tolist() == [[True] * 4 + [False] * 2]
    late = plan_of([15, 16], [Box(0, 0, 8, 8)], (8, 8), 20, fps=10)
    with pytest.raises(DecodeError, match="too short"):
        DepthReader(replace(PLAIN, fps=5.0)).read(tmp_path / "depth.npy", late, 8)


def test_pictures_of_another_shape(tmp_path: Path) -> None:
    picture = np.zeros((2, 10, 20), np.uint16)
    picture[:, :, 5:15] = 7
    source = save_all(tmp_path / "depth", picture)
    for size in ((16, 9), (20, 11), (21, 10)):
        with pytest.raises(DecodeError, match="another size"):
            DepthReader(PLAIN).read(source, whole(*size, 2), 8)
    # Up to rounding of one side, it is the same aspect ratio: 20 x 10 of 85 x 43.
    assert DepthReader(PLAIN).read(source, whole(85, 43, 2), 8).data.shape == (1, 2, 8, 8, 1)
    # Of another camera, or without any boxes, the centred square is shown.
    for reader, plan in (
        (DepthReader(PLAIN, same_view=False), whole(16, 9, 2)),
        (DepthReader(PLAIN), plan_of([0, 1], [Box(0, 0, 0, 0)], (0, 0), 2)),
    ):
        assert reader.read(source, plan, 8).data.int().unique().tolist() == [7]


def test_a_further_video_follows_the_plan(tmp_path: Path) -> None:
    frames = waves(6, 64, 48, (2, 1))
    video = write_grey(tmp_path / "video.mp4", frames)
    plan = plan_of([1, 4], [Box(10, 6, 32, 32), Box(0, 0, 64, 48)], (64, 48), 6)
    stream = FurtherVideo(None).read(video, plan, 16)
    assert (stream.kind, stream.data.dtype, stream.data.shape) == ("video", torch.uint8, (2, 2, 16, 16, 3))
    # By time, at 30 instead of 10 frames per second, these are others.
    other = FurtherVideo(None).read(video, replace(plan, length=9), 16)
    assert other.valid is not None
    assert other.valid.tolist() == [[True, False]] * 2
    assert not torch.equal(other.data[0, 0], stream.data[0, 0])
    folder = save_all(tmp_path / "frames", frames)
    same = FurtherVideo(None).read(folder, plan, 16).data
    assert (same.float() - stream.data.float()).abs().mean() < 3


def broken_folder(change: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        save_all(root / "x", np.full((5, 8, 8), 1000, np.uint16), "{:05d}.png")
        change(root / "x")
        return root / "x"

    return make


def array(content: np.ndarray) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        np.save(root / "x.npy", content)
        return root / "x.npy"

    return make


def two_arrays(root: Path) -> Path:
    np.savez(root / "x.npz", a=np.zeros(1), b=np.zeros(1))
    return root / "x.npz"


def other_size(folder: Path) -> None:
    Image.fromarray(np.full((8, 9), 1000, np.uint16)).save(folder / "00003.png")


def other_kind(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 10, np.uint8)).save(folder / "00003.png")


def cut_short(folder: Path) -> None:
    content = (folder / "00003.png").read_bytes()
    (folder / "00003.png").write_bytes(content[: len(content) // 2])


def fewer_of_v(root: Path) -> Path:
    as_folders(root / "x")
    (root / "x/v/00003.png").unlink()
    return root / "x"


def twice(root: Path) -> Path:
    as_folders(root / "x")
    return as_array(root / "x")


def half_a_flo(root: Path) -> Path:
    as_flo(root / "x")
    (root / "x/2.flo").write_bytes((root / "x/2.flo").read_bytes()[:-4])
    return root / "x"


DEPTH, MASK, FLOWS = DepthReader(PLAIN), MaskReader(MaskSettings(), None), FlowReader(FlowSettings(), None)
INFINITE = np.full((5, 8, 8, 2), np.inf, np.float16)


@pytest.mark.parametrize(
    ("reader", "make", "reason"),
    [
        (DEPTH, lambda root: root / "nothing", "file not found"),
        (DEPTH, broken_folder(lambda folder: (folder / "00002.png").unlink()), "a gap in time .*00003.png follows 00001.png"),
        (DEPTH, broken_folder(lambda folder: (folder / "00002.webp").write_bytes(b"")), "a gap in time"),
        (DEPTH, broken_folder(lambda folder: [path.unlink() for path in folder.iterdir()]), "no frame decoded"),
        (DEPTH, broken_folder(other_size), "frame size changes .*00003.png"),
        (DEPTH, broken_folder(other_kind), "another format .*00003.png"),
        (DEPTH, broken_folder(cut_short), "failed while decoding .*00003.png"),
        (DEPTH, broken_folder(lambda folder: (folder / "00000.png").write_bytes(b"noise")), "failed while decoding"),
        (DEPTH, array(np.zeros((5, 8, 8, 3), np.uint16)), "another format .*3 channels of uint16"),
        (DEPTH, array(np.zeros(5, np.uint16)), "another format .*an array of shape"),
        (DEPTH, array(np.array([None] * 5)), "cannot open"),
        (DEPTH, two_arrays, "another format .*the arrays a, b"),
        (MASK, array(np.zeros((5, 8, 8), np.float32)), "another format .*float32"),
        (MASK, array(np.zeros((5, 8, 8, 3), np.uint8)), "another format .*3 channels"),
        (MASK, array(np.zeros((5, 9, 8), np.uint8)), "another size"),
        (MASK, lambda root: save_all(root / "x", np.zeros((5, 8, 8), np.uint8), "{}.jpg"), "another format .*JPEG"),
        (FLOWS, array(np.zeros((5, 8, 8, 3), np.float32)), "another format .*3 channels of float32"),
        (FLOWS, array(np.zeros((5, 2, 8, 8), np.float32)), "another format .*8 channels of float32"),
        (FLOWS, array(np.zeros((5, 8, 8, 2), np.int16)), "another format .*int16"),
        (FLOWS, array(INFINITE), "not numbers"),
        # What Middlebury writes where flow is unknown.
        (FLOWS, array(np.full((5, 8, 8, 2), 1.7e9, np.float32)), "not numbers"),
        (FLOWS, fewer_of_v, "a gap in time .*4 and 3 pictures"),
        (FLOWS, half_a_flo, "cannot open .*2.flo"),
        (FLOWS, twice, "another format .*exists twice"),
        (FLOWS, lambda root: save_all(root / "x", np.zeros((4, 8, 8), np.uint8)), "another format .*1 channels"),
    ],
)  # fmt: skip
def test_what_is_broken_has_a_name(
    reader: DepthReader | MaskReader | FlowReader, make: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DecodeError, match=f"^{reason}"):
        reader.read(make(tmp_path), whole(8, 8, 5), 8)


def test_readers_by_kind() -> None:
    settings = StreamSettings(depth=DepthSettings(fps=12), flow=FlowSettings(15), mask=MaskSettings(4))
    assert [type(make_reader(kind, settings)) for kind in ("flow", "depth", "mask", "video")] == [
        *(FlowReader, DepthReader, MaskReader, FurtherVideo),
    ]  # fmt: skip
    plan = whole(8, 8, 5)
    assert [tuple(make_reader(kind, settings).nothing(plan, 6).data.shape) for kind in ("flow", "depth", "mask", "video")] == [
        (1, 5, 6, 6, channels) for channels in (2, 1, 4, 3)
    ]

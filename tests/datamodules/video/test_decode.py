"""Reading chosen frames gives what plain decoding from the start of the file gives, bit by bit.

Small files of every kind are generated, so that nothing but PyAV is needed. Real files are also read if the folder
in VIDEOS_DIR exists.
"""

import os
import struct
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from datamodules.lists.manifest import Manifest
from datamodules.loading.loader import SampleKey
from datamodules.video import pyav_reader
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.decode import DecodedClips, DecodeError, VideoBytes, VideoInfo, probe, read_clips
from datamodules.video.pyav_reader import PyAVReader
from datamodules.video.samplers import Dense, Segments
from datamodules.video.sampling import ClipSettings, Plan, ViewSettings, make_plan
from modules.core.errors import SettingError
from tests.datamodules.video_files import (
    DAMAGE,
    RATE,
    X264,
    X265,
    decode_all,
    fixed,
    overwrite,
    places_of,
    write_video,
)

VIDEOS = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[4] / "shared" / "videos"))
REAL_FILES = sorted(path for path in VIDEOS.glob("*") if path.suffix in (".mp4", ".mkv", ".mov", ".avi"))
SETTINGS = (
    ClipSettings(frames=6, sampler=Dense(3)),
    ClipSettings(frames=5, clips=2, sampler=Segments()),
    ClipSettings(frames=2, sampler=Dense(1), clips=3),
)
# What is read by presentation time, with a codec name, encoder options, container options.
TIMED = {
    "plain.mp4": ("libx264", {}, {}),
    "pyramid.mp4": ("libx264", {X264: "bframes=5:b-pyramid=strict:keyint=24:b-adapt=0"}, {}),
    "open_gop.mp4": ("libx264", {X264: "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}, {}),
    "open_gop.mkv": ("libx264", {X264: "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"}, {}),
    "interlaced.mp4": ("libx264", {X264: "tff=1:bframes=3:keyint=20"}, {}),
    "fragments.mp4": ("libx264", {X264: "keyint=12"}, {"movflags": "frag_keyframe+empty_moov"}),
    "keyframes.mkv": ("libx264", {X264: "keyint=12"}, {}),
    "hevc.mp4": ("libx265", {X265: "keyint=12:min-keyint=12:bframes=4:log-level=none"}, {}),
    "hevc.mkv": ("libx265", {X265: "keyint=24:bframes=4:log-level=none"}, {}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "20", "lag-in-frames": "16"}, {}),
    "av1.mp4": ("libsvtav1", {"preset": "13", "g": "24"}, {}),
}
# What is counted from the start.
COUNTED = {
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "12"}, {}),
    "mpeg4.avi": ("mpeg4", {"bf": "2", "g": "12"}, {}),
    "h264.avi": ("libx264", {X264: "keyint=12:bframes=3"}, {}),
    "stream.ts": ("libx264", {X264: "keyint=12"}, {}),
    "stream.h264": ("libx264", {X264: "keyint=12"}, {}),
    "mjpeg.avi": ("mjpeg", {}, {}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "g": "20"}, {}),
}


def assert_equal_to_reference(path: Path, clips: int, threads: int = 1) -> None:
    """Random clips of every kind of sampling, bit by bit."""
    reference = decode_all(path)
    for seed in range(clips):
        for settings in SETTINGS:
            rng = np.random.default_rng(seed)
            decoded = read_clips(path, settings.choose, rng, threads=threads)
            assert decoded.info.num_frames == len(reference)
            chosen = settings.choose(decoded.info, np.random.default_rng(seed))
            for number, position in zip(chosen.ravel(), decoded.position.ravel(), strict=True):
                np.testing.assert_array_equal(decoded.frames[position], reference[number], f"frame {number}")


@pytest.mark.parametrize("name", [*TIMED, *COUNTED])
def test_generated_files_equal_plain_decoding(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, options, container_options = {**TIMED, **COUNTED}[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / name, codec, options, container_options, pix_fmt=pix_fmt)
    counted = []
    count = PyAVReader._read_by_count
    monkeypatch.setattr(PyAVReader, "_read_by_count", lambda self, n: counted.append(n) or count(self, n))
    assert_equal_to_reference(path, clips=3)
    # The fast path must be used where intended; otherwise the equality above does not test it.
    assert bool(counted) == (name in COUNTED)


@pytest.mark.parametrize("name", ["irregular.mp4", "irregular.mkv"])
def test_frames_are_numbered_not_timed_where_the_rate_varies(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, options={X264: "keyint=15"}, irregular=True)
    assert_equal_to_reference(path, clips=3)


def test_several_decoder_threads_change_nothing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", options={X264: "bframes=5:b-pyramid=strict:keyint=24:b-adapt=0"})
    assert_equal_to_reference(path, clips=3, threads=2)


def test_intra_refresh_falls_back_to_counting(tmp_path: Path) -> None:
    """Keyframes from which nothing can be decoded at once: the decoder delays requested frames."""
    path = write_video(tmp_path / "a.mkv", options={X264: "intra-refresh=1:keyint=20:bframes=0"})
    assert_equal_to_reference(path, clips=3)


@pytest.mark.parametrize("shift", [5, 7])
def test_frames_before_an_edit_list_are_not_numbered(shift: int, tmp_path: Path) -> None:
    """A copy that starts in the middle, as made by `ffmpeg -ss -c copy`."""
    source = write_video(tmp_path / "a.mp4", options={X264: "bframes=3:keyint=24"})
    path = tmp_path / "cut.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        ticks = int(shift / RATE / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - ticks, packet.dts - ticks, copy
                new.mux(packet)
    assert len(decode_all(path)) == 72 - shift
    assert_equal_to_reference(path, clips=3)


def test_unwanted_frames_without_references_are_not_decoded(tmp_path: Path) -> None:
    """Destroying them changes nothing of the other frames, but does change what plain decoding gives."""
    path = write_video(tmp_path / "a.mp4", options={X264: "bframes=3:b-adapt=0:b-pyramid=none:keyint=72:scenecut=0"})
    reference = decode_all(path)
    data = bytearray(path.read_bytes())
    for position, size in places_of(path):
        end = position + size
        while position < end:  # units of the bit stream, each after its length; a header byte marks unused ones
            length = int.from_bytes(data[position : position + 4], "big")
            reference_level, kind = data[position + 4] >> 5 & 3, data[position + 4] & 31
            if kind == 1 and reference_level == 0:  # after the header of the slice, which is read
                data[position + 20 : position + 4 + length] = b"\x5a" * (length - 16)
            position += 4 + length
    path.write_bytes(data)
    assert not np.array_equal(decode_all(path)[:71], reference[:71])
    decoded = read_clips(path, fixed([4, 16, 40, 68]), None)
    for frame, number in zip(decoded.frames, (4, 16, 40, 68), strict=True):
        np.testing.assert_array_equal(frame, reference[number])


def test_runs_are_cut_where_a_keyframe_saves_decoding() -> None:
    keyframes = [0, 50, 100, 150]
    assert pyav_reader._runs([0, 4, 8], keyframes) == [[0, 4, 8]]
    # 60 -> 104 would decode 40 frames for nothing; 95 -> 101 only five.
    assert pyav_reader._runs([60, 104, 108], keyframes) == [[60], [104, 108]]
    assert pyav_reader._runs([95, 101], keyframes) == [[95, 101]]
    assert pyav_reader._runs([3, 160], keyframes) == [[3], [160]]
    assert pyav_reader._runs([3, 160], [0]) == [[3, 160]]


def test_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_video(tmp_path / name) for name in ("a.mp4", "a.mkv")] + [write_video(tmp_path / "a.avi", "mpeg4")]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    paths.append(tmp_path / "a.png")
    opened, av_open = [], av.open
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: opened.append(args[0]) or av_open(*args, **kwargs))
    for path in paths:
        read_clips(path, SETTINGS[1].choose, np.random.default_rng(0))
    # Files that had to be decoded for counting are opened again for reading, but only the first time.
    assert opened == [str(path) for path in (*paths[:3], paths[2], paths[3])]
    opened.clear()
    read_clips(paths[2], SETTINGS[1].choose, np.random.default_rng(0))
    assert opened == [str(paths[2])]


class Counts:
    """Counts of openings, scans, decoded and converted frames of one reading."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = self.looks = self.pictures = 0
        self.decoded: list[int] = []
        opened, look, decode, picture = av.open, PyAVReader._look, PyAVReader._decode, PyAVReader._picture

        def open_counted(*args: Any, **settings: Any) -> Any:
            self.opened += 1
            return opened(*args, **settings)

        def look_counted(reader: PyAVReader) -> Any:
            self.looks += 1
            return look(reader)

        def decode_counted(reader: PyAVReader, packets: list[av.Packet], wanted: list[int]) -> Any:
            times = [packet.pts or 0 for packet in packets]
            self.decoded += times[: max(times.index(time) for time in wanted) + 1]
            return decode(reader, packets, wanted)

        def picture_counted(reader: PyAVReader, *args: Any) -> Any:
            self.pictures += 1
            return picture(reader, *args)

        monkeypatch.setattr(av, "open", open_counted)
        monkeypatch.setattr(PyAVReader, "_look", look_counted)
        monkeypatch.setattr(PyAVReader, "_decode", decode_counted)
        monkeypatch.setattr(PyAVReader, "_picture", picture_counted)


@pytest.mark.parametrize("name", ["plain.mp4", "pyramid.mp4", "open_gop.mp4", "keyframes.mkv"])
def test_all_clips_and_views_of_a_video_are_one_pass_over_its_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, options, container_options = TIMED[name]
    write_video(tmp_path / name, codec, options, container_options, frames=120)
    manifest = Manifest(tmp_path, [name], np.zeros(1, np.int64))
    counts, shown = Counts(monkeypatch), []

    def plan(decoded: DecodedClips, *args: Any) -> Plan:
        shown.append(len(np.unique(decoded.numbers)))
        return make_plan(decoded, *args)

    monkeypatch.setattr("datamodules.video.dataset.make_plan", plan)
    clip = ClipSettings(frames=6, size=32, clips=3, repeat=2, sampler=Dense(4))
    training = VideoClipDataset(manifest, clip, seed=1, train=True)
    testing = VideoClipDataset(manifest, clip, seed=1, train=False, views=ViewSettings(segments=5, crops=3))
    for number, (dataset, views) in enumerate([(training, 6), (training, 6), (testing, 15)]):
        counts.pictures, counts.decoded = 0, []
        sample = dataset[SampleKey(number, 0)]
        assert len(sample["video"]) == views
        # The first reading scans the file; it is not scanned again for another clip, view or epoch.
        assert (counts.opened, counts.looks) == (number + 1, 1)
        assert len(counts.decoded) == len(set(counts.decoded)) > 0
        # A frame of several clips or views is converted once, and no other frame is converted.
        assert counts.pictures == shown[-1] <= len(counts.decoded)


def test_reading_stops_at_the_last_wanted_frame(tmp_path: Path) -> None:
    """What comes after it may be destroyed."""
    path = write_video(tmp_path / "a.mp4", options={X264: "keyint=24:bframes=0"})
    reference = decode_all(path)
    destroy_contents(path, slice(45, None))
    decoded = read_clips(path, fixed([24, 30, 41]), None)
    for frame, number in zip(decoded.frames, (24, 30, 41), strict=True):
        np.testing.assert_array_equal(frame, reference[number])


def test_a_file_that_breaks_off_is_refused_whichever_frames_are_wanted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", options={X264: "keyint=24"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: places_of(path)[45][0]])
    for numbers in ([24, 30, 41], [24, 30, 60]):
        with pytest.raises(DecodeError, match=r"failed while decoding \(breaks off: 45 of 72 frames\)"):
            read_clips(path, fixed(numbers), None)


def destroy_contents(path: Path, packets: slice) -> None:
    """Overwrite packets of H.264 in an mp4, except for the slice headers, which are read."""
    overwrite(path, [(position + 20, size - 20) for position, size in places_of(path)[packets] if size > 20])


def test_reading_starts_at_the_keyframe_before_the_first_wanted_frame(tmp_path: Path) -> None:
    """Everything before it may be destroyed."""
    path = write_video(tmp_path / "a.mp4", options={X264: "keyint=24:scenecut=0"})
    reference = decode_all(path)
    destroy_contents(path, slice(1, 20))
    decoded = read_clips(path, fixed([24, 47]), None)
    for frame, number in zip(decoded.frames, (24, 47), strict=True):
        np.testing.assert_array_equal(frame, reference[number])


@pytest.mark.parametrize("name", ["cut.mp4", "cut.h264"])
def test_file_that_starts_between_keyframes(name: str, tmp_path: Path) -> None:
    """Its first packets contain no frame, so the number of packets is not the number of frames."""
    source = write_video(tmp_path / "a.h264", options={X264: "keyint=24:scenecut=0:bframes=0"})
    path = tmp_path / name
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        for place, packet in enumerate(packets[5:]):
            packet.pts = packet.dts = int(place / RATE / stream.time_base)
            packet.stream = copy
            new.mux(packet)
    reference = decode_all(path)
    assert len(reference) == 72 - 24
    decoded = read_clips(path, lambda info, rng: np.array([[0, info.num_frames - 1]]), None)
    assert decoded.info.num_frames == len(reference)
    for frame, number in zip(decoded.frames, (0, -1), strict=True):
        np.testing.assert_array_equal(frame, reference[number])


def test_description_of_a_file_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "what it shows"
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"what it shows", b"\xff\xfe it shows"))
    assert probe(path).num_frames == 1


def test_time_is_seconds_from_the_start(tmp_path: Path) -> None:
    rows = ([4, 8, 20], [30, 30, 31])
    paths = [write_video(tmp_path / "a.mp4"), write_video(tmp_path / "a.avi", "mpeg4")]
    paths.append(write_video(tmp_path / "late.mkv", first_time=50))
    for path in paths:
        decoded = read_clips(path, fixed(*rows), None)
        assert decoded.time.dtype == np.float32
        np.testing.assert_allclose(decoded.time, [[4 / RATE, 20 / RATE], [30 / RATE, 31 / RATE]], atol=1e-6)
        assert len(decoded.frames) == 5
        assert decoded.position.tolist() == [[0, 1, 2], [3, 3, 4]]


# Row vectors times these: identity, the three turns, the two mirrorings, the two transpositions.
MATRICES = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
MATRICES += [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("matrix", MATRICES)
def test_display_matrix_is_honoured(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=4)
    source = decode_all(path)[2]
    data = bytearray(path.read_bytes())
    # The 3 x 3 matrix is 40 bytes after the name of the track header (version 0): 16.16 and 2.30 fixed point.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)

    a, b, c, d = matrix
    height, width = source.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    expected = np.zeros((height, width, 3) if a else (width, height, 3), dtype=np.uint8)
    expected[to_y - to_y.min(), to_x - to_x.min()] = source
    decoded = read_clips(path, fixed([2]), None)
    np.testing.assert_array_equal(decoded.frames[0], expected)
    assert (decoded.info.height, decoded.info.width) == expected.shape[:2]
    info = probe(path)
    assert (info.height, info.width) == expected.shape[:2]


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "odd:%03d.png"])
def test_image_is_a_video_of_one_frame(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    decoded = read_clips(tmp_path / name, ClipSettings(frames=4).choose, np.random.default_rng(0))
    assert decoded.position.tolist() == [[0, 0, 0, 0]]
    assert decoded.info.num_frames == 1
    if name.endswith("png"):
        np.testing.assert_array_equal(decoded.frames[0], pixels)


def test_length_is_learnt_where_the_container_does_not_state_it(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.h264", "a.ts"):
        path = write_video(tmp_path / name)
        with av.open(str(path)) as container:
            assert container.streams.video[0].frames == 0
        assert probe(path) == VideoInfo(num_frames=72, fps=RATE, width=64, height=48)


def read_with(decoder: str, path: Path, rows: np.ndarray) -> DecodedClips:
    """Read with an optional decoder, or skip."""
    pytest.importorskip(decoder)
    try:
        return read_clips(path, lambda info, rng: rows, None, decoder=decoder)
    except SettingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        *(("decord", name) for name in ("plain.mp4", "pyramid.mp4", "keyframes.mkv")),
        *(("torchcodec", name) for name in ("plain.mp4", "pyramid.mp4", "keyframes.mkv", "open_gop.mkv", "hevc.mp4")),
    ],
)
def test_optional_decoders_return_equal_frames(decoder: str, name: str, tmp_path: Path) -> None:
    """Not on AVI: torchcodec picks by presentation time, which AVI does not carry.

    Not decord on open groups of pictures, hence not on HEVC: around their keyframes it returns neighbouring frames.
    """
    path = write_video(tmp_path / name, *TIMED[name])
    rows = np.array([[0, 3, 11, 12], [35, 36, 37, 71]])
    theirs, ours = read_with(decoder, path, rows), read_clips(path, lambda info, rng: rows, None)
    assert theirs.info == ours.info
    np.testing.assert_array_equal(theirs.position, ours.position)
    np.testing.assert_array_equal(np.stack(theirs.frames), np.stack(ours.frames))
    np.testing.assert_allclose(theirs.time, ours.time, atol=2e-3)  # Matroska counts milliseconds


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("kind", ["empty", "missing", "noise", "sound"])
def test_optional_decoders_raise_the_same_error(decoder: str, kind: str, tmp_path: Path) -> None:
    make, reason = DAMAGE[kind]
    with pytest.raises(DecodeError) as caught:
        read_with(decoder, make(tmp_path), np.array([[0]]))
    assert caught.value.reason in (reason, "cannot open")


def test_decoder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(SettingError, match="decoder decord cannot be imported"):
        read_clips(write_video(tmp_path / "a.mp4", frames=4), fixed([0]), None, decoder="decord")


real_file = pytest.mark.parametrize("path", REAL_FILES, ids=lambda path: path.name)
needs_files = pytest.mark.skipif(not REAL_FILES, reason=f"no videos in {VIDEOS}; set VIDEOS_DIR to a folder of them")


@lru_cache(maxsize=1)
def reference_of(path: Path) -> list[np.ndarray]:
    return decode_all(path)


@lru_cache(maxsize=1)
def plain_decoding_fails(path: Path) -> bool:
    with av.open(str(path)) as container:
        try:
            for _ in container.decode(container.streams.video[0]):
                pass
        except av.FFmpegError:
            return True
    return False


def check_real_file(path: Path, clips: int) -> None:
    """Random clips against plain decoding, or the right error if plain decoding fails."""
    reference = reference_of(path)
    for seed in range(clips):
        settings = (ClipSettings(), ClipSettings(frames=8, clips=2, sampler=Segments()))[seed % 2]
        choose = settings.choose
        if plain_decoding_fails(path):
            with pytest.raises(DecodeError, match=f"failed while decoding .* after {len(reference)} frames"):
                read_clips(path, choose, np.random.default_rng(seed))
            continue
        decoded = read_clips(path, choose, np.random.default_rng(seed))
        assert decoded.info.num_frames == len(reference)
        numbers = choose(decoded.info, np.random.default_rng(seed))
        for number, position in zip(numbers.ravel(), decoded.position.ravel(), strict=True):
            np.testing.assert_array_equal(decoded.frames[position], reference[number], f"frame {number}")


@needs_files
@real_file
def test_real_files_equal_plain_decoding(path: Path) -> None:
    # Plain decoding of full HD is most of this test's cost; a few clips are enough there.
    check_real_file(path, clips=2 if path.stat().st_size > 900_000 and path.suffix == ".avi" else 8)


@pytest.mark.slow
@needs_files
@real_file
def test_real_files_equal_plain_decoding_many_clips(path: Path) -> None:
    check_real_file(path, clips=25)


@needs_files
@pytest.mark.parametrize("path", [p for p in REAL_FILES if p.suffix in (".mp4", ".mkv")], ids=lambda path: path.name)
@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_optional_decoders_return_equal_frames_of_real_files(decoder: str, path: Path) -> None:
    """mp4 and mkv with one video stream: of several streams, these libraries use the largest, this project the first.

    Not decord on HEVC, for its open groups of pictures.
    """
    with av.open(str(path)) as container:
        codecs = [stream.codec_context.name for stream in container.streams.video]
    if len(codecs) > 1 or (decoder, codecs[0]) == ("decord", "hevc"):
        pytest.skip("a codec or a number of streams on which this decoder differs")
    reference = reference_of(path)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, len(reference), (1, 12)), axis=1)
    if plain_decoding_fails(path):
        with pytest.raises(DecodeError, match="failed while decoding"):
            read_with(decoder, path, rows)
        return
    theirs = read_with(decoder, path, rows)
    in_memory = VideoBytes(path.name, path.read_bytes())
    with_threads = read_clips(in_memory, lambda info, rng: rows, None, threads=2, decoder=decoder)  # type: ignore[arg-type]
    for number, position in zip(rows[0], theirs.position[0], strict=True):
        np.testing.assert_array_equal(theirs.frames[position], reference[number], f"frame {number}")
        np.testing.assert_array_equal(with_threads.frames[position], reference[number], f"frame {number}")


def assert_same_in_memory(path: Path) -> None:
    """The same frames and errors as from the path, also after reading another file of this name and size."""
    content = path.read_bytes()
    for settings in SETTINGS[:2]:
        outcomes = []
        with suppress(DecodeError):
            read_clips(VideoBytes(path.name, content[::-1]), settings.choose, np.random.default_rng(0))
        for source in (path, VideoBytes(path.name, content)):
            try:
                outcomes.append(read_clips(source, settings.choose, np.random.default_rng(0)))
            except DecodeError as error:
                outcomes.append((error.reason, error.detail.replace(str(path), path.name)))
        there, here = outcomes
        if isinstance(there, tuple) or isinstance(here, tuple):
            assert there == here
            continue
        assert (there.info, there.numbers.tolist()) == (here.info, here.numbers.tolist())
        np.testing.assert_array_equal(there.moments, here.moments)
        np.testing.assert_array_equal(there.position, here.position)
        assert all(np.array_equal(one, other) for one, other in zip(there.frames, here.frames, strict=True))


@pytest.mark.parametrize(
    "name", ["plain.mp4", "open_gop.mkv", "fragments.mp4", "hevc.mp4", "mpeg4.avi", "h264.avi", "stream.ts", "stream.h264"]
)
def test_a_file_in_memory_is_read_as_on_disk(name: str, tmp_path: Path) -> None:
    codec, options, container_options = {**TIMED, **COUNTED}[name]
    path = write_video(tmp_path / name, codec, options, container_options)
    assert_same_in_memory(path)
    # Cut off, and damaged within.
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert_same_in_memory(path)
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(200) + content[half + 200 :])
    assert_same_in_memory(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_a_picture_in_memory_is_read_as_on_disk(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    assert_same_in_memory(path)


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in ("missing", "folder")])
def test_a_broken_file_in_memory_is_the_same_error(kind: str, tmp_path: Path) -> None:
    assert_same_in_memory(DAMAGE[kind][0](tmp_path))


@needs_files
@real_file
def test_a_real_file_in_memory_is_read_as_on_disk(path: Path) -> None:
    assert_same_in_memory(path)

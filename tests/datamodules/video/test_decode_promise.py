"""Frame k of a file is frame k of plain decoding from its start, with the same number of frames, whatever the
container states; or there is an error. Files are made by putting encoded packets into containers in odd ways.
"""

import os
import struct
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.prepare.reencode import Encoding, reencode
from datamodules.video import pyav_reader
from datamodules.video.decode import DecodeError, Decoder, VideoInfo, probe, read_clips
from datamodules.video.pyav_reader import PyAVReader
from modules.core.errors import SettingError
from tests.datamodules.video.odd_files import CODECS, CONTAINERS, ODDITIES, read_parts, write_odd, write_source

SHARED = Path(__file__).parents[4] / "shared"
FAULTS = Path(os.environ.get("FAULTS_DIR", SHARED / "faults")) / "videos"
VIDEOS = Path(os.environ.get("VIDEOS_DIR", SHARED / "videos"))
SHARED_FILES = [
    path for folder in (FAULTS, VIDEOS) for path in sorted(folder.glob("*.*")) if path.suffix not in (".npz", ".md")
]
# All odd files of these codecs are tried by default, and every tenth of the others.
WHOLE = [("h264", "mp4"), ("h264_open", "mkv"), ("hevc", "mp4"), ("mpeg4", "mov")]
# If half of a picture is missing, decoders show undefined memory.
RANDOM = ("mjpeg", "half packets")


def plain_decoding(path: Path) -> tuple[list[np.ndarray], bool]:
    """All frames until decoding ends or fails, and whether it fails. Several threads would hide damage in other ways."""
    frames = []
    try:
        with av.open(str(path)) as container:
            if container.streams.video[0].codec_context is None:
                return [], True
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(container.streams.video[0]):
                frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
    except (av.FFmpegError, IndexError):
        return frames, True
    return frames, False


def what_is_wrong(path: Path, decoder: Decoder = "pyav", step: int = 5) -> list[str]:
    """Differences between reading the file and plain decoding."""
    right, fails = plain_decoding(path)
    counted: list[int] = []

    def ends(info: VideoInfo, rng: np.random.Generator | None) -> np.ndarray:
        counted.append(info.num_frames)
        return np.array([[0, info.num_frames - 1]])

    wrong = []
    error = ""
    try:
        read_clips(path, ends, None, decoder=decoder)
    except DecodeError as caught:
        error = str(caught)
    if decoder != "pyav" and error:
        return []
    if not fails and (error or counted[-1] != len(right)) and right:
        wrong.append(f"{counted[-1:]} frames instead of {len(right)} {error}")
    if (fails or not right) and not error:
        wrong.append(f"{counted[-1:]} frames where plain decoding fails after {len(right)}")
    for numbers in [[k] for k in range(0, len(right), step)] + [list(range(k, min(k + 6, len(right)))) for k in (5, 18)]:
        try:
            clip = read_clips(path, lambda info, rng, numbers=numbers: np.array([numbers]), None, decoder=decoder)
        except (DecodeError, ValueError) as caught:
            if not fails and numbers:
                wrong.append(f"{numbers}: {caught}")
            continue
        for place, number in zip(clip.position[0], numbers, strict=True):
            if not np.array_equal(clip.frames[place], right[number]):
                wrong.append(f"frame {number} is another one")
    return wrong


def check_oddities(codec: str, folder: Path, everything: bool, decoder: Decoder = "pyav") -> set[tuple[str, str]]:
    """Make odd files of a codec and read them; the containers and oddities that could be made."""
    source = write_source(folder / f"source.{CODECS[codec][2]}", codec)
    parts, tick = read_parts(source)
    wrong = {source.name: what_is_wrong(source, decoder)}
    made = set()
    for group, container in enumerate(CONTAINERS):
        for number, (oddity, change) in enumerate(ODDITIES.items()):
            chosen = everything or (codec, container) in WHOLE or (number + group * 3) % 10 == 0
            if not chosen or (codec, oddity) == RANDOM:
                continue
            path = write_odd(folder / f"{number}.{container}", source, change(parts, tick), container)
            if path is not None:
                made.add((container, oddity))
                wrong[f"{container}, {oddity}"] = what_is_wrong(path, decoder)
                path.unlink()
    assert {name: faults for name, faults in wrong.items() if faults} == {}
    return made


# Containers per codec: theora is supported by one only, GIF by two.
@pytest.mark.parametrize("codec", CODECS)
def test_odd_files_equal_plain_decoding(codec: str, tmp_path: Path) -> None:
    made = check_oddities(codec, tmp_path, everything=False)
    assert len(made) >= 12 or codec in ("gif", "theora")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("codec", CODECS)
def test_all_odd_files_equal_plain_decoding(codec: str, tmp_path: Path) -> None:
    assert len(check_oddities(codec, tmp_path, everything=True)) >= 30


@pytest.mark.skipif(not SHARED_FILES, reason=f"no videos in {FAULTS} and {VIDEOS}; set FAULTS_DIR and VIDEOS_DIR")
@pytest.mark.parametrize("path", SHARED_FILES, ids=lambda path: path.name)
def test_shared_files_equal_plain_decoding(path: Path) -> None:
    assert what_is_wrong(path, step=40 if path.stat().st_size > 200_000 else 3) == []


def test_marks_of_key_frames_that_are_missing(tmp_path: Path) -> None:
    """Without its table of key frames, an mp4 states that every frame is a key frame."""
    for codec in ("h264", "mpeg4", "hevc"):
        path = write_source(tmp_path / f"{codec}.mp4", codec)
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
        assert what_is_wrong(path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.flv", "a.mov"])
def test_of_several_streams_the_first_is_read(name: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source.mp4", "h264")
    parts, _ = read_parts(source)
    path = write_odd(tmp_path / name, source, parts, name[2:], streams=2)
    if path is None:
        pytest.skip("this container takes one stream only")
    assert what_is_wrong(path) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("codec", ["h264", "h264_annexb", "hevc", "vp9", "mpeg4"])
def test_streams_of_two_sizes_in_a_row(name: str, codec: str, tmp_path: Path) -> None:
    """Also if the container only states the parameters of the first: then the second is noise, or an error."""
    suffix = CODECS[codec][2]
    first, second = (write_source(tmp_path / f"{width}.{suffix}", codec, size=(width, 48)) for width in (64, 96))
    parts, tick = read_parts(first)
    later = ODDITIES["late start"](read_parts(second)[0], tick)
    path = write_odd(tmp_path / name, first, parts + later, name[2:])
    assert path is None or [fault for fault in what_is_wrong(path) if "another" in fault] == []


def is_refused(path: Path) -> bool:
    """Whether opening the file is an error. If so, it gives the number of decoded frames, and there were more."""
    try:
        probe(path)
        return False
    except DecodeError as error:
        detail = error.detail
    right, fails = plain_decoding(path)
    assert not right or (f"after {len(right)} frames" if fails else f"breaks off: {len(right)} of ") in detail
    return True


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2", "vp8", "vp9", "av1", "mjpeg", "flv1"])
def test_files_that_break_off(codec: str, tmp_path: Path) -> None:
    """They are refused, or have the length of plain decoding, if it does not fail."""
    source = write_source(tmp_path / f"source.{CODECS[codec][2]}", codec)
    parts, refused, made = read_parts(source)[0], 0, 0
    for container in ("mkv", "ts", "flv", "avi", "frag.mp4", "mp4", "wmv", "nut"):
        for share in (0.35, 0.6, 0.8, 0.97):
            path = write_odd(tmp_path / f"{share}.{container}", source, parts, container)
            if path is not None:
                path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
                made += 1
                refused += is_refused(path)
                assert is_refused(path) or what_is_wrong(path) == []
    assert 0 < refused < made


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2", "vp8", "vp9", "av1", "flv1"])
def test_files_with_damage_in_the_middle(codec: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / f"source.{CODECS[codec][2]}", codec)
    parts, draws = read_parts(source)[0], np.random.default_rng(0)
    for container in ("mp4", "mkv", "avi", "ts"):
        for number in range(6):
            path = write_odd(tmp_path / f"{number}.{container}", source, parts, container)
            if path is not None:
                data = bytearray(path.read_bytes())
                place, size = int(draws.integers(len(data) // 4, len(data) * 3 // 4)), int(draws.integers(1, 60))
                data[place : place + size] = draws.bytes(size)
                path.write_bytes(data)
                assert is_refused(path) or what_is_wrong(path) == []


@pytest.mark.parametrize("container", ["avi", "frag.mp4"])
def test_a_broken_file_is_an_error_and_no_shorter_video(
    container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_source(tmp_path / "source.mp4", "mpeg4")
    path = write_odd(tmp_path / f"a.{container}", source, read_parts(source)[0], container)
    assert path is not None
    path.write_bytes(path.read_bytes()[: int(0.35 * path.stat().st_size)])
    right, fails = plain_decoding(path)
    assert not fails
    looked = []
    look = PyAVReader._look
    monkeypatch.setattr(PyAVReader, "_look", lambda self: looked.append(self._source.name) or look(self))
    for _ in range(3):
        with pytest.raises(DecodeError, match=rf"failed while decoding \(breaks off: {len(right)} of (40|10) frames\)"):
            read_clips(path, lambda info, rng: np.array([[0]]), None)
    # Faults of a file are cached like its facts.
    assert looked == [path.name]


def test_a_cut_index_takes_no_frames_away(tmp_path: Path) -> None:
    path = write_source(tmp_path / "a.avi", "mpeg4_plain")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"idx1") + 40])
    assert probe(path).num_frames == 40
    assert what_is_wrong(path) == []


def test_rate_is_that_of_the_frames(tmp_path: Path) -> None:
    """AVI counts dropped frames for its rate: here every second one."""
    source = write_source(tmp_path / "source.avi", "mpeg4_plain")
    parts, tick = read_parts(source)
    path = write_odd(tmp_path / "a.avi", source, ODDITIES["doubled"](parts, tick)[::2], "avi")
    assert path is not None
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
    info = probe(path)
    assert (info.num_frames, info.fps) == (40, pytest.approx(12.5))


def test_a_file_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_source(tmp_path / "a.webm", "vp8")
    looked = []
    look = PyAVReader._look
    monkeypatch.setattr(PyAVReader, "_look", lambda self: looked.append(self._source.name) or look(self))
    for _ in range(3):
        assert probe(path).num_frames == 40
    assert looked == ["a.webm"]
    # Another file under the same name is another file.
    write_source(path, "vp8", frames=24)
    assert probe(path).num_frames == 24


def test_little_is_kept_in_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_reader, "_memory", pyav_reader._Memory())
    monkeypatch.setattr(pyav_reader, "MAX_REMEMBERED", 40)
    data = write_source(tmp_path / "a.mp4", "h264").read_bytes()
    for number in range(20):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        probe(path)
        memory = pyav_reader._memory
        assert memory.size == sum(4 + len(facts.keyframes) for facts in memory.facts.values()) <= 40
    assert len(memory.facts) == 5


def test_files_too_large_to_keep_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_reader, "MAX_KEPT", 1000)
    for codec in ("h264", "mpeg4_plain", "mpeg2"):
        assert what_is_wrong(write_source(tmp_path / f"{codec}.{CODECS[codec][2]}", codec)) == []


def thumbnails(path: Path) -> np.ndarray:
    frames, fails = plain_decoding(path)
    assert not fails
    return np.stack([frame[:48, :64].astype(float).reshape(12, 4, 16, 4, 3).mean((1, 3)) for frame in frames])


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "vp9", "mpeg2"])
@pytest.mark.parametrize(
    "oddity", ["pts equal dts", "early start", "all key", "all key, pts equal dts", "twice, last pts equal dts"]
)
def test_prepared_videos_have_the_frames_of_their_source(codec: str, oddity: str, tmp_path: Path) -> None:
    source = write_source(tmp_path / f"source.{CODECS[codec][2]}", codec)
    parts, tick = read_parts(source)
    made = 0
    for container in ("mp4", "mkv", "avi", "ts"):
        path = write_odd(tmp_path / f"odd.{container}", source, ODDITIES[oddity](parts, tick), container)
        if path is None or plain_decoding(path)[1]:
            continue
        made += 1
        out = tmp_path / "out.mp4"
        right = thumbnails(path)
        assert reencode(path, out, None, None, Encoding(256, 12, 12, 12.0)) == len(right)
        assert what_is_wrong(out) == []
        got = thumbnails(out)
        nearest = np.abs(got[:, None] - right[None]).mean((2, 3, 4)).argmin(1)
        assert np.abs(right[nearest] - right).max() == 0, container
        # A cut by time takes the frames of that time, wherever decoding may start.
        if oddity == "all key" and container != "ts":
            assert reencode(path, out, 0.6, 1.2, Encoding(256, 12, 12, 12.0)) == 15
            got = thumbnails(out)
            assert np.abs(got[:, None] - right[None]).mean((2, 3, 4)).argmin(1).tolist() == list(range(15, 30))
    assert made


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0), (0, -1, 1, 0)])
def test_prepared_videos_are_turned_and_mirrored_as_their_source(matrix: tuple[int, ...], tmp_path: Path) -> None:
    path = write_source(tmp_path / "a.mp4", "h264")
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    reencode(path, tmp_path / "out.mp4", None, None, Encoding(256, 12, 5, 12.0))
    shown, got = (read_clips(file, lambda info, rng: np.array([[7]]), None).frames[0] for file in (path, tmp_path / "out.mp4"))
    assert shown.shape == got.shape
    assert np.abs(shown.astype(int) - got).mean() < 10


@pytest.mark.skipif(not FAULTS.is_dir(), reason=f"there is no folder {FAULTS}; set FAULTS_DIR")
def test_clips_cut_without_encoding_are_prepared(tmp_path: Path) -> None:
    reference = np.load(FAULTS / "reference.npz")
    for name in sorted(reference.files):
        assert reencode(FAULTS / name, tmp_path / "out.mp4", None, None, Encoding(256, 12, 20, 12.0)) == len(reference[name])
        assert probe(tmp_path / "out.mp4").num_frames == len(reference[name])


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
@pytest.mark.parametrize("codec", ["h264", "h264_open", "hevc", "mpeg4", "vp9", "mpeg2"])
def test_optional_decoders_are_refused_where_they_are_wrong(decoder: Decoder, codec: str, tmp_path: Path) -> None:
    pytest.importorskip(decoder)
    source = write_source(tmp_path / "a.mp4" if codec != "mpeg2" else tmp_path / "a.ts", codec)
    try:
        read_clips(source, lambda info, rng: np.array([[0]]), None, decoder=decoder)
    except SettingError as error:
        pytest.skip(str(error))
    except DecodeError:
        pass
    check_oddities(codec, tmp_path, everything=False, decoder=decoder)


def test_frames_from_a_moment_on(tmp_path: Path) -> None:
    path = write_source(tmp_path / "a.mp4", "h264_open")
    whole = [frame.pts for frame in av.open(str(path)).decode(video=0)]
    for number in range(40):
        with closing(PyAVReader(path, 1, None)) as reader:
            times = [frame.pts for frame in reader.frames_from(number / 25)]
        assert times[times.index(whole[number]) :] == whole[number:]
        # Decoding starts at a key frame before the moment, not at the beginning.
        assert len(times) <= 40 - number // 10 * 10 + 3


def test_header_of_avi_that_counts_too_few(tmp_path: Path) -> None:
    path = write_source(tmp_path / "a.avi", "h264")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"vids") + 32, 10)
    path.write_bytes(data)
    assert what_is_wrong(path) == []


def test_damage_in_an_open_group(tmp_path: Path) -> None:
    """Concealed frames depend on the frames decoded before."""
    source = write_source(tmp_path / "source.mp4", "h264_open")
    parts, _ = read_parts(source)
    flips = np.random.default_rng(0)
    for number in range(8):
        place = int(flips.integers(12, len(parts)))
        data = bytearray(parts[place].data)
        data[int(flips.integers(6, len(data)))] ^= 1 << int(flips.integers(8))
        changed = [*parts[:place], replace(parts[place], data=bytes(data)), *parts[place + 1 :]]
        path = write_odd(tmp_path / f"{number}.mp4", source, changed, "mp4")
        assert path is not None
        assert what_is_wrong(path, step=1) == []


def test_hevc_that_leaves_out_pictures_before_a_key_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag of key frames drops the pictures that the decoder still delays."""
    closed = {"x265-params": "open-gop=0:keyint=10:min-keyint=10:bframes=4:log-level=none"}
    monkeypatch.setitem(CODECS, "hevc_closed", ("libx265", closed, "mp4"))
    source = write_source(tmp_path / "source.mp4", "hevc_closed")
    parts, _ = read_parts(source)
    changed = []
    for number, part in enumerate(parts):
        data, position = bytearray(part.data), 0
        while number and position < len(data):
            if 16 <= data[position + 4] >> 1 & 63 <= 21:
                data[position + 6] |= 0x40
            position += 4 + int.from_bytes(data[position : position + 4], "big")
        changed.append(replace(part, data=bytes(data)))
    path = write_odd(tmp_path / "a.mp4", source, changed, "mp4")
    assert path is not None
    assert len(plain_decoding(path)[0]) < len(parts)
    assert what_is_wrong(path, step=1) == []


def test_hevc_whose_packets_changed_places(tmp_path: Path) -> None:
    """The decoder drops pictures that refer to missing ones, without an error."""
    source = write_source(tmp_path / "source.mp4", "hevc")
    parts, _ = read_parts(source)
    lost = 0
    for place in range(12, 30, 3):
        changed = list(parts)
        one, other = parts[place], parts[place + 3]
        changed[place], changed[place + 3] = replace(other, dts=one.dts), replace(one, dts=other.dts)
        path = write_odd(tmp_path / f"{place}.mp4", source, changed, "mp4")
        if path is not None:
            lost += len(plain_decoding(path)[0]) < len(parts)
            assert what_is_wrong(path) == []
    assert lost


def test_interlaced_mpeg4_at_a_changing_rate(tmp_path: Path) -> None:
    """Decoders drop pictures whose distance differs from that of the first ones."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        options = {"bf": "3", "g": "9", "flags": "+ilme+ildct", "b_strategy": "0"}
        stream = container.add_stream("mpeg4", rate=1000, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(40):
            picture = np.roll(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3), number * 9)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number * 400 if number < 5 else 2000 + number * 20, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(plain_decoding(path)[0]) < 40
    assert what_is_wrong(path, step=1) == []


def test_frames_that_are_lost_before_decoding_fails(tmp_path: Path) -> None:
    """Then the positions of later frames differ from those in the container."""
    source = write_source(tmp_path / "source.mp4", "hevc")
    parts, _ = read_parts(source)
    keys = [number for number, part in enumerate(parts) if part.is_key]
    # Frames after the last key frame that are displayed before it refer to the missing group.
    changed = parts[: keys[1]] + parts[keys[-1] :]
    changed[-2] = replace(changed[-2], data=b"\0\0\0\x30" + b"\xff" * 20)
    path = write_odd(tmp_path / "a.mp4", source, changed, "mp4")
    assert path is not None
    assert plain_decoding(path)[1]
    assert what_is_wrong(path, step=1) == []

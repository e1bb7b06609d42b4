"""Audio from files: times, channels, rates, and broken or missing parts."""

import math
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datamodules.audio.decode import Channels, Sound, SoundTrack, open_sound, sound_length
from datamodules.audio.reader import AudioReader
from datamodules.lists.manifest import Manifest
from datamodules.loading.loader import SampleKey
from datamodules.streams.dataset import StreamDataset, Wanted
from datamodules.streams.reader import PartlyReadError
from datamodules.streams.settings import SoundSettings
from datamodules.video.crops import Box
from datamodules.video.decode import DecodeError, read_clips, reading_clips
from datamodules.video.samplers import Dense, Segments
from datamodules.video.sampling import ClipSettings, Plan
from modules.core.batch import Stream
from modules.core.errors import SettingError
from tests.datamodules.audio.sounding import FPS, RATE, claps, tone, write_sounding
from tests.datamodules.video_files import overwrite, shorten

GRID = Path(__file__).parents[4] / "shared" / "real" / "grid_av" / "clips"
CLIP = ClipSettings(frames=8, size=16, sampler=Dense(2))


def read(path: Path, start: float, samples: int, rate: int = RATE, channels: Channels = "first") -> Sound:
    with open_sound(path) as sound:
        return sound.read(np.array([start]), samples, rate, channels)


def plan_of(*views: tuple[float, float]) -> Plan:
    time = np.array(views, np.float32)
    return Plan(np.zeros((len(views), 2), np.int64), time, time, [Box(0, 0, 0, 0)] * len(views))


def dataset(path: Path, settings: SoundSettings, clip: ClipSettings = CLIP, marks: bool = False) -> StreamDataset:
    wanted = Wanted(
        {"video": "video", "audio": "audio"}, {"audio": AudioReader(settings)}, on_missing="mark" if marks else "replace"
    )
    return StreamDataset(Manifest(path.parent, [path.name], np.zeros(1, np.int64)), clip, 0, True, wanted)


def onset(samples: np.ndarray) -> int:
    """First sample of a clap in silence."""
    return int(np.flatnonzero(np.abs(samples) > 0.2 * np.abs(samples).max())[0])


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "aac"), ("mkv", "pcm_s16le"), ("mov", "pcm_s16le"), ("mkv", "aac"), ("ts", "aac")]
)
@pytest.mark.parametrize("delay", [0.0, 0.478, -0.2])
def test_a_clap_is_heard_when_it_is_seen(suffix: str, codec: str, delay: float, tmp_path: Path) -> None:
    moments = [0.6, 2.0, 3.4]
    heard = claps([moment - delay for moment in moments], 4 - delay)
    path = write_sounding(tmp_path / f"a.{suffix}", heard, codec, 100, moments, delay)
    for first in (0, 10, 33, 61):
        frames = np.arange(first, min(first + 30, 100))[None]
        with reading_clips(path, lambda info, rng, chosen=frames: chosen, None, sound="near") as decoded:
            sound = decoded.sound.read(decoded.time[:, 0], 19200, RATE, "first").data[0, 0]
        seen = next(float(decoded.moments[0, place]) for place, frame in enumerate(decoded.frames) if frame.mean() > 128)
        shown = decoded.moments[0, 0] + onset(sound) / RATE
        assert abs(shown - seen) < 0.005
        assert min(abs(seen - moment) for moment in moments) < 1e-6


def test_parts_of_pcm_are_those_of_the_whole(tmp_path: Path) -> None:
    samples = tone(4)
    path = write_sounding(tmp_path / "a.mov", samples, "pcm_s16le", 100)
    whole = read(path, 0, 4 * RATE)
    assert np.array_equal(whole.data[0], samples / np.float32(32768))
    assert whole.valid.all()
    for start in (0.1, 0.25, 1.0, 2.52):
        with reading_clips(path, lambda info, rng, f=start: np.array([[round(f * FPS)]]), None, sound="near") as decoded:
            beside = decoded.sound.read(np.array([start]), RATE, RATE, "first")
        place = round(start * RATE)
        assert np.array_equal(beside.data[0], whole.data[0, :, place : place + RATE])
        assert np.array_equal(read(path, start, RATE).data, beside.data)


@pytest.mark.parametrize("far", [0, 50])
def test_sound_of_aac_does_not_depend_on_how_it_was_come_upon(far: int, tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.mp4", tone(12), frames=300)
    start = 3 + far / FPS
    apart = read(path, start, RATE).data
    for frames in ([75 + far], [0, 75 + far], [75 + far, 290]):
        for wish in ("near", "whole"):
            with reading_clips(path, lambda info, rng, f=frames: np.array([f]), None, sound=wish) as decoded:
                beside = decoded.sound.read(np.array([start]), RATE, RATE, "first").data
            assert np.array_equal(apart, beside)
    exact = read(path, 0, 12 * RATE).data[0, :, round(start * RATE) :][:, :RATE]
    assert np.abs(apart[0] - exact).max() < 1e-3


def test_the_file_is_opened_once_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sounding(tmp_path / "a.mp4", tone(8, 48000, 2), frames=200, rate=48000)
    data = dataset(path, SoundSettings())
    opened, sought = [], []
    own = av.open
    monkeypatch.setattr(av, "open", lambda *one, **other: opened.append(one) or own(*one, **other))
    monkeypatch.setattr("datamodules.audio.decode.SoundTrack._extend", _counting(sought))
    for epoch in range(12):
        sample = data[SampleKey(epoch, 0)]
        assert sample["faults"] == []
        assert sample["streams"]["audio"].data.shape == (1, 1, round(14 / FPS * RATE))
        assert len(opened) == epoch + 1
    # All packets were read together with the video; at most a few more were read after the last one.
    assert max(sought, default=0) <= 3
    listed = StreamDataset(
        data.manifest, CLIP, 0, True, Wanted({"audio": "audio"}, {"audio": AudioReader(SoundSettings(seconds=1))})
    )
    listed[SampleKey(0, 0)]
    opened.clear()
    assert listed[SampleKey(1, 0)]["streams"]["audio"].data.shape == (1, 1, RATE)
    assert len(opened) == 1


def _counting(sought: list[int]) -> object:
    extend = SoundTrack._extend

    def counted(self: SoundTrack, run: object, *arguments: object) -> None:
        before = len(run.packets)
        extend(self, run, *arguments)
        sought.append(len(run.packets) - before)

    return counted


def test_channels_are_chosen_here_and_not_by_the_library(tmp_path: Path) -> None:
    equal = np.repeat(tone(1), 2, axis=0)
    path = write_sounding(tmp_path / "equal.wav", equal, "pcm_s16le")
    expected = equal[0] / np.float32(32768)
    assert np.array_equal(read(path, 0, RATE, channels="mean").data[0, 0], expected)
    other = tone(1, channels=2)
    path = write_sounding(tmp_path / "other.wav", other, "pcm_s16le")
    left, right = other / np.float32(32768)
    assert np.array_equal(read(path, 0, RATE).data[0, 0], left)
    assert np.allclose(read(path, 0, RATE, channels="mean").data[0, 0], (left + right) / 2, atol=1e-7)
    assert np.array_equal(read(path, 0, RATE, channels="stereo").data[0], np.stack([left, right]))
    single = write_sounding(tmp_path / "single.flac", other[:1], "flac")
    assert np.array_equal(read(single, 0, RATE, channels="stereo").data[0], np.stack([left, left]))


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
def test_another_rate_is_resampled(rate: int, tmp_path: Path) -> None:
    moment = np.arange(2 * rate) / rate
    samples = np.round(20000 * np.sin(2 * np.pi * 440 * moment)).astype(np.int16)[None]
    path = write_sounding(tmp_path / "a.wav", samples, "pcm_s16le", rate=rate)
    expected = 20000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    sound = read(path, 0, 2 * RATE)
    # Flushed: not one sample is lost at the end.
    assert sound.valid.all()
    assert np.abs(sound.data[0, 0] - expected)[50:-50].max() < 2e-3
    # A part begins with a sample of the file, which is up to half a sample away.
    part = read(path, 0.5, RATE).data[0, 0]
    assert np.abs(part - expected[8000:24000])[50:-50].max() < 0.61 * 2 * np.pi * 440 * 0.5 / RATE + 2e-3


def test_the_first_channel_is_that_of_the_wav_that_ffmpeg_extracts(tmp_path: Path) -> None:
    if (ffmpeg := shutil.which("ffmpeg")) is None:
        pytest.skip("no ffmpeg here")
    path = write_sounding(tmp_path / "a.mp4", tone(2, 44100, 2), frames=50, rate=44100)
    wav = tmp_path / "a.wav"
    subprocess.run([ffmpeg, "-v", "error", "-i", path, "-vn", "-ar", "16000", wav], check=True)
    with av.open(str(wav)) as container:
        extracted = np.concatenate([one.to_ndarray().reshape(-1, 2)[:, 0] for one in container.decode(audio=0)]) / 32768
    ours = read(path, 0, len(extracted)).data[0, 0]
    assert np.abs(ours - extracted).max() <= 3.1e-5


def test_sound_shorter_than_the_clip_is_filled_up(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.mov", tone(1), "pcm_s16le", 100, delay=0.5)
    sound = read(path, 0, 3 * RATE)
    expected = np.zeros(3 * RATE, bool)
    expected[RATE // 2 : RATE // 2 + RATE] = True
    assert np.array_equal(sound.valid[0], expected)
    assert not sound.data[0, :, ~expected].any()
    stream = AudioReader(SoundSettings()).read(path, plan_of((0.25, 1.25), (1.0, 1.5)), 0)
    assert stream.data.shape == (2, 1, RATE)
    # The second clip is shorter than the first.
    assert stream.valid.sum(1).tolist() == [0.75 * RATE, 0.5 * RATE]
    assert stream.time.tolist() == [[0.25, 1.25], [1.0, 1.5]]
    with pytest.raises(DecodeError, match="too short"):
        read(path, 2.5, RATE)


def test_missing_and_silent_tracks(tmp_path: Path) -> None:
    mute = write_sounding(tmp_path / "mute.mp4", None, frames=40)
    silent = write_sounding(tmp_path / "silent.mov", claps([], 1.6), "pcm_s16le", 40)
    late = write_sounding(tmp_path / "late.mov", claps([1.5], 1.6), "pcm_s16le", 40)
    for path, reason in ((mute, "no such stream"), (silent, "silent")):
        with pytest.raises(DecodeError) as caught:
            AudioReader(SoundSettings(seconds=0.5)).read(path, plan_of((0, 0.5)), 0)
        assert caught.value.reason == reason
        sample = dataset(path, SoundSettings(), marks=True)[SampleKey(0, 0)]
        assert sample["faults"] == [(0, f"audio: {reason}")]
        assert sample["time"][0, 1] > 0
        assert not sample["streams"]["audio"].valid.any()
        assert sample["streams"]["audio"].data.shape == (1, 1, round(14 / FPS * RATE))
        sample = dataset(path, SoundSettings())[SampleKey(0, 0)]
        assert set(sample["faults"]) == {(0, f"audio: {reason}")}
        assert sample["unreplaced"]
    # A silent part of a track that is not silent is valid.
    sound = read(late, 0, RATE // 2)
    assert sound.valid.all()
    assert not sound.data.any()


def test_broken_packets_are_zeros_that_are_counted(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.mp4", tone(4), frames=100)
    with av.open(str(path)) as container:
        places = [(entry.pos, entry.size) for entry in container.streams.audio[0].index_entries]
    overwrite(path, places[20:24])
    sound = read(path, 0, 4 * RATE)
    assert sound.faults == 4
    hurt = ~sound.valid[0]
    assert 3 * 1024 <= hurt.sum() <= 5 * 1024
    assert 19 * 1024 <= np.flatnonzero(hurt)[0] <= 21 * 1024
    whole = tone(4)[0] / 32768
    after = slice(26 * 1024, 60 * 1024)
    assert np.corrcoef(sound.data[0, 0, after], whole[after])[0, 1] > 0.99
    sample = dataset(path, SoundSettings(whole=True))[SampleKey(0, 0)]
    assert sample["faults"] == [(0, "audio: failed while decoding")]
    stream: Stream = sample["streams"]["audio"]
    assert torch.equal(stream.data[0], torch.from_numpy(sound.data[0])[:, : stream.data.shape[2]])
    with pytest.raises(PartlyReadError) as caught:
        AudioReader(SoundSettings()).read(path, plan_of((1.0, 2.0)), 0)
    assert caught.value.kept.valid.any()


def test_broken_files(tmp_path: Path) -> None:
    for name, codec in (("cut.wav", "pcm_s16le"), ("cut.flac", "flac")):
        cut = write_sounding(tmp_path / name, tone(4), codec)
        assert read(cut, 0, 4 * RATE).faults == 0
        shorten(cut, cut.stat().st_size // 2)
        sound = read(cut, 0, 4 * RATE)
        assert sound.faults >= 1
        assert abs(sound.valid.sum() - 2 * RATE) < 6000
    (tmp_path / "empty.wav").touch()
    (tmp_path / "noise.wav").write_bytes(np.random.default_rng(0).bytes(3000))
    np.save(tmp_path / "depth.npy", np.full((40, 48, 64), 900, np.uint16))  # FFmpeg detects it as speech
    named = (("empty.wav", "empty file"), ("none.wav", "file not found"))
    for name, reason in (*named, ("noise.wav", "cannot open"), ("depth.npy", "cannot open")):
        for reads in (lambda path: read(path, 0, 99), sound_length):
            with pytest.raises(DecodeError) as caught:
                reads(tmp_path / name)
            assert caught.value.reason == reason


def test_lengths_and_windows(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.wav", tone(3, 44100), "pcm_s16le", rate=44100)
    assert sound_length(path) == 3
    manifest = Manifest(tmp_path, ["a.wav"], np.zeros(1, np.int64))

    def sample(settings: SoundSettings, clip: ClipSettings = CLIP, epoch: int = 0, train: bool = True) -> Stream:
        wanted = Wanted({"audio": "audio"}, {"audio": AudioReader(settings)}, "audio")
        found = StreamDataset(manifest, clip, 0, train, wanted)[SampleKey(epoch, 0)]
        assert found["faults"] == []
        assert "video" not in found
        return found["streams"]["audio"]

    assert sample(SoundSettings(whole=True)).data.shape == (1, 1, 3 * RATE)
    assert sample(SoundSettings(whole=True, seconds=5)).valid.sum() == 3 * RATE
    assert sample(SoundSettings(seconds=5, channels="stereo")).data.shape == (1, 2, 5 * RATE)
    starts = {sample(SoundSettings(seconds=1), epoch=epoch).time[0, 0].item() for epoch in range(8)}
    assert len(starts) == 8
    assert 0 <= min(starts) < 0.7 < 1.3 < max(starts) <= 2
    centre = sample(SoundSettings(seconds=1), train=False)
    assert centre.time.tolist() == [[1.0, 2.0]]
    assert torch.equal(centre.data[0], torch.from_numpy(read(path, 1.0, RATE).data[0]))
    two = sample(SoundSettings(seconds=1), ClipSettings(frames=8, size=16, clips=2, repeat=2))
    assert torch.equal(two.data[0], two.data[1])
    assert not torch.equal(two.data[0], two.data[2])
    assert two.valid.all()
    with pytest.raises(SettingError, match=r"set data\.streams\.sound\.seconds"):
        sample(SoundSettings())
    with pytest.raises(SettingError, match=r"set data\.streams\.sound\.seconds"):
        AudioReader(SoundSettings()).read(path, Plan.empty(1, 1), 0)


def test_whole_sound_beside_any_frames(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.mp4", tone(8), frames=200)
    expected = read(path, 0, 8 * RATE)
    for clip in (CLIP, ClipSettings(frames=1, size=16), ClipSettings(frames=4, size=16, sampler=Segments())):
        stream = dataset(path, SoundSettings(whole=True, seconds=8), clip)[SampleKey(3, 0)]["streams"]["audio"]
        assert torch.equal(stream.data, torch.from_numpy(expected.data))
        assert stream.time.tolist() == [[0, 8]]


def test_whole_sound_of_a_part_of_a_file(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.wav", tone(3), "pcm_s16le")
    manifest = Manifest(tmp_path, ["a.wav"], np.zeros(1, np.int64), spans=np.array([[1.0, 2.5]]))
    for settings, length in ((SoundSettings(whole=True), 1.5), (SoundSettings(whole=True, seconds=5), 5)):
        wanted = Wanted({"audio": "audio"}, {"audio": AudioReader(settings)}, "audio")
        stream = StreamDataset(manifest, CLIP, 0, False, wanted)[SampleKey(0, 0)]["streams"]["audio"]
        assert stream.data.shape == (1, 1, length * RATE)
        assert stream.valid.sum() == 1.5 * RATE
        assert torch.equal(stream.data[0, :, : 3 * RATE // 2], torch.from_numpy(read(path, 1, 3 * RATE // 2).data[0]))
        assert not stream.data[..., 3 * RATE // 2 :].any()


def test_pictures_are_the_same_with_sound(tmp_path: Path) -> None:
    path = write_sounding(tmp_path / "a.mp4", tone(8), frames=200, flashes=[0.4, 3.2, 5.6])
    for frames in ([3, 4], [70, 90, 130], [5, 190]):
        plain = read_clips(path, lambda info, rng, f=frames: np.array([f]), None)
        with reading_clips(path, lambda info, rng, f=frames: np.array([f]), None, sound="near") as decoded:
            assert np.array_equal(plain.moments, decoded.moments)
            assert all(np.array_equal(one, other) for one, other in zip(plain.frames, decoded.frames, strict=True))


def test_real_talking_faces() -> None:
    if not GRID.is_dir():
        pytest.skip(f"no recordings at {GRID}")
    paths = sorted(GRID.glob("*.mp4"))
    assert len(paths) >= 30
    reader = AudioReader(SoundSettings())
    for path in paths[::4]:
        assert math.isclose(sound_length(path), 2.95, abs_tol=0.1)
        sample = dataset(path, SoundSettings())[SampleKey(0, 0)]
        stream = sample["streams"]["audio"]
        assert stream.data.shape == (1, 1, round(14 / FPS * RATE))
        assert stream.valid.float().mean() > 0.9
        first, last = sample["time"][0].tolist()
        assert torch.equal(stream.data, reader.read(path, plan_of((first, last)), 0).data)
        assert 0.001 < stream.data.square().mean().sqrt() < 0.5

"""AudioSet, VGGSound, ESC-50 and SpeechCommands: their official files, faked, and batches of sound."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import ESC50, AudioSet, SpeechCommands, VGGSound
from datamodules.base import VideoDataModule
from datamodules.lists.subsets import balancing_weights
from datamodules.sets.audioset import read_segments
from datamodules.sets.vggsound import read_clip_list
from datamodules.settings import ReadSettings
from datamodules.streams.settings import SoundSettings, StreamSettings
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.core.errors import SettingError
from tests.datamodules.audio.sounding import RATE, tone, write_sounding
from tests.datamodules.sets.test_downstream_datasets import write
from tests.datamodules.sets.trees import batches, put, ready

SMALL: dict[str, Any] = {
    **{"clip": ClipSettings(frames=4, size=16, sampler=Dense(2)), "batch_size": 2, "reading": ReadSettings(0), "seed": 1}
}
HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017",
    "# num_ytids=4",
    "# YTID, start_seconds, end_seconds, positive_labels",
)
MIDS = ("index,mid,display_name", '0,/m/09x0r,"Speech"', '1,/m/0a,"Child speech, kid speaking"', "2,/t/dd1,Silence")


def of(seconds: float | None, *names: str) -> StreamSettings:
    return StreamSettings(list(names) or None, sound=SoundSettings(seconds=seconds))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sounds")
    return {
        "wav": write_sounding(folder / "a.wav", tone(1, 44100), "pcm_s16le", rate=44100),
        "flac": write_sounding(folder / "a.flac", tone(1, channels=2), "flac"),
        "mp4": write_sounding(folder / "a.mp4", tone(1), frames=25),
    }


@pytest.fixture
def audioset(tmp_path: Path, files: dict[str, Path]) -> Path:
    names = ("--PJHxphWEs.flac", "--pjhxphwes_30.flac", "b/abcdefghijk_30.000.flac", "b/0123456789a.mp4", "e_val-45678_.mp4")
    for name in names:
        put(files[name.rpartition(".")[2]], tmp_path / name)
    write(
        tmp_path, "balanced_train_segments.csv", *HEAD,
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd1"', '--pjhxphwes, 30.000, 40.000, "/m/0a"',
    )  # fmt: skip
    write(
        tmp_path, "unbalanced_train_segments.csv", *HEAD,
        'abcdefghijk, 30.000, 40.000, "/m/09x0r"', '0123456789a, 0.000, 10.000, "/t/dd1,/m/09x0r"',
    )  # fmt: skip
    write(tmp_path, "eval_segments.csv", *HEAD, 'e_val-45678_, 1.000, 11.000, "/m/0a"', 'gone4567890, 1.000, 3.000, "/m/0a"')
    write(tmp_path, "class_labels_indices.csv", *MIDS)
    return tmp_path


def test_audioset(audioset: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"1 of the 2 videos of .*eval_segments.csv .* 1 are missing, the first is gone4567890"
    ):
        data = ready(AudioSet(str(audioset), streams=of(1.0), **SMALL))
    assert data.train_manifest is not None
    expected = ["--PJHxphWEs.flac", "--pjhxphwes_30.flac", "b/abcdefghijk_30.000.flac", "b/0123456789a.mp4"]
    assert data.train_manifest.paths == expected
    assert [data.train_manifest.shown(row).tolist() for row in range(4)] == [[1, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 1]]
    assert data.class_names == ["Speech", "Child speech, kid speaking", "Silence"]
    assert data.streams == {"audio": "audio"}
    seen = {}
    for batch in batches(data):
        assert list(batch.streams) == ["audio"]
        assert batch.stream("audio").data.shape == (2, 1, 1, RATE)
        assert batch.label.dtype == torch.float32
        seen |= dict(zip(batch.index.tolist(), batch.label.tolist(), strict=True))
    assert seen == {0: [1, 0, 1], 1: [0, 1, 0], 2: [1, 0, 0], 3: [1, 0, 1]}
    with pytest.warns(UserWarning, match="1 are missing"):
        few = ready(AudioSet(str(audioset), benchmark="as20k", streams=of(1.0), **SMALL))
    assert few.train_manifest is not None
    assert few.train_manifest.paths == expected[:2]


def test_audioset_with_pictures(audioset: Path, files: dict[str, Path]) -> None:
    for name in ("--PJHxphWEs", "--pjhxphwes_30", "gone4567890"):
        put(files["mp4"], audioset / f"{name}.mp4")
    with pytest.warns(UserWarning, match=r"1 are missing, the first is abcdefghijk"):
        data = ready(AudioSet(str(audioset), streams=of(None, "video", "audio"), **SMALL))
    assert data.train_manifest is not None
    # The audio of the first is a separate file, not that of its video.
    assert data.train_manifest.paths == [
        *("--PJHxphWEs.mp4", "--pjhxphwes_30.mp4", "abcdefghijk.mp4", "b/0123456789a.mp4"),
    ]
    batch = batches(data)[0]
    assert batch.stream("video").data.shape == (2, 1, 4, 16, 16, 3)
    assert batch.stream("audio").data.shape == (2, 1, 1, round(6 / 25 * RATE))


def test_lines_of_audioset(tmp_path: Path) -> None:
    numbers = {"/m/09x0r": 0, "/t/dd1": 1}
    listed = write(tmp_path, "a.csv", *HEAD, '-a, 30.000, 40.000, "/m/09x0r,/t/dd1"', '-b,30.000,40.000,"/m/09x0r,/t/dd1"')
    assert list(read_segments(listed, numbers)) == [("-a", 30.0, {0, 1}), ("-b", 30.0, {0, 1})]
    for line in ('a, 30.000, 40.000, "/m/unknown"', "a, 30.000", 'a, x, 40.000, "/t/dd1"'):
        with pytest.raises(SettingError, match=r"Line 4 of .*a\.csv is 'a.*expected an id, two times"):
            list(read_segments(write(tmp_path, "a.csv", *HEAD, line), numbers))


def test_vggsound(tmp_path: Path, files: dict[str, Path]) -> None:
    for name in ("-a_000030", "-a_000040", "B_000001", "b_000001"):
        put(files["mp4"], tmp_path / "videos" / f"{name}.mp4")
    write(
        tmp_path, "vggsound.csv",
        '-a,30,"race car, auto racing",train', '-a,40,"race car, auto racing",train', "B,1,playing harp,train", "Xzq",
        'b,1,"race car, auto racing",test',
    )  # fmt: skip
    write(tmp_path, "typo.csv", "-a,30,playing harp,train", "b,1,playing harp,tset")
    with pytest.raises(SettingError, match=r"Line 2 of .*typo\.csv has the split 'tset'; expected train or test"):
        read_clip_list(tmp_path / "typo.csv")
    with pytest.warns(UserWarning, match=r"vggsound.csv: 1 lines are not clips and were left out, the first is line 4: Xzq"):
        data = ready(VGGSound(str(tmp_path), **(SMALL | {"batch_size": 3})))
    assert data.train_manifest is not None
    assert data.val_manifest is not None
    assert data.train_manifest.paths == ["videos/-a_000030.mp4", "videos/-a_000040.mp4", "videos/B_000001.mp4"]
    assert data.train_manifest.labels.tolist() == [1, 1, 0]
    assert data.val_manifest.paths == ["videos/b_000001.mp4"]
    assert data.class_names == ["playing harp", "race car, auto racing"]
    (batch,) = batches(data)
    assert batch.stream("video").data.shape == (3, 1, 4, 16, 16, 3)
    sound = batch.stream("audio")
    assert sound.data.shape == (3, 1, 1, round(6 / 25 * RATE))
    assert sound.valid is not None
    assert sound.valid.all()
    listed = write(tmp_path, "test.csv", 'b_000001.mp4,"race car, auto racing"', "Xzq")
    with pytest.warns(UserWarning, match="1 lines are not clips"):
        assert read_clip_list(listed) == [("b_000001", "race car, auto racing", "")]
    many = write(tmp_path, "many.csv", *(f'v{label:03d},1,"class {label}, of many",train' for label in range(309)))
    assert len({label for _, label, _ in read_clip_list(many)}) == 309
    with pytest.raises(SettingError, match=r"Line 1 of .*has the start 'x'"):
        read_clip_list(write(tmp_path, "odd.csv", "a,x,b,train"))


@pytest.fixture
def esc50(tmp_path: Path, files: dict[str, Path]) -> Path:
    rows = []
    for fold in range(1, 6):
        for target, name in ((0, "dog"), (14, "chirping_birds")):
            clip = f"{fold}-{100 + fold}-A-{target}.wav"
            put(files["wav"], tmp_path / "audio" / clip)
            rows.append(f"{clip},{fold},{target},{name},False,{100 + fold},A")
    write(tmp_path, "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take", *rows)
    return tmp_path


def test_esc50(esc50: Path) -> None:
    tested = []
    for fold in range(1, 6):
        data = ready(ESC50(str(esc50), benchmark=f"fold{fold}", streams=of(5.0), **SMALL))
        assert data.train_manifest is not None
        assert data.val_manifest is not None
        assert len(data.train_manifest) == 8
        assert not set(data.train_manifest.paths) & set(data.val_manifest.paths)
        tested += data.val_manifest.paths
        assert data.val_manifest.labels.tolist() == [0, 14]
    assert sorted(tested) == sorted(path.relative_to(esc50).as_posix() for path in (esc50 / "audio").iterdir())
    assert data.class_names is not None
    assert (data.class_names[0], data.class_names[14], len(data.class_names)) == ("dog", "chirping_birds", 50)
    for batch in (*batches(data), *data.val_dataloader(), *data.probe_dataloader()):
        stream = batch.stream("audio")
        assert stream.data.shape == (2, 1, 1, 80000)
        # Files of one second in the test; the rest is padding.
        assert stream.valid.sum(-1).tolist() == [[RATE], [RATE]]
    with pytest.raises(SettingError, match=r"set data\.streams\.sound\.seconds"):
        ready(ESC50(str(esc50), **SMALL)).train_dataloader()
    with pytest.raises(SettingError, match=r"data\.streams\.names is \['video'\]; ESC50 has audio"):
        ESC50(str(esc50), streams=of(5.0, "video"), **SMALL)
    write(esc50, "meta/esc50.csv", "filename,fold,target,category", "1-1-A-0.wav,6,0,dog")
    with pytest.raises(SettingError, match="has the fold '6'"):
        ready(ESC50(str(esc50), streams=of(5.0), **SMALL))


def test_sound_follows_workers_and_epochs(esc50: Path) -> None:
    def read(workers: int, epoch: int) -> list[Any]:
        settings = SMALL | {"reading": ReadSettings(workers)}
        return batches(ready(ESC50(str(esc50), streams=of(0.5), **settings)), epoch)

    here, there, later = read(0, 0), read(2, 0), read(0, 1)
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.index, other.index)
        for name in ("data", "valid", "time"):
            assert torch.equal(getattr(one.stream("audio"), name), getattr(other.stream("audio"), name))
    assert not torch.equal(here[0].stream("audio").time, later[0].stream("audio").time)


def test_speech_commands(tmp_path: Path, files: dict[str, Path]) -> None:
    clips = [f"{word}/{speaker}_nohash_0" for word in ("yes", "backward") for speaker in ("aa", "bb", "cc", "dd")]
    for clip in (*clips, "_background_noise_/running_tap"):
        put(files["wav"], tmp_path / f"{clip}.wav")
    write(tmp_path, "validation_list.txt", "yes/aa_nohash_0.wav", "backward/aa_nohash_0.wav")
    write(tmp_path, "testing_list.txt", "backward/bb_nohash_0.wav")
    data = ready(SpeechCommands(str(tmp_path), streams=of(1.0), **SMALL))
    data.setup("test")
    manifests = (data.train_manifest, data.val_manifest, data.test_manifest)
    paths = [set(one.paths) for one in manifests if one is not None]
    assert [len(one) for one in paths] == [5, 2, 1]
    assert set.union(*paths) == {f"{clip}.wav" for clip in clips}
    assert data.class_names == ["backward", "yes"]
    assert data.val_manifest is not None
    assert data.val_manifest.labels.tolist() == [1, 0]
    assert batches(data)[0].stream("audio").data.shape == (2, 1, 1, RATE)
    write(tmp_path, "testing_list.txt", "word/x_nohash_0.wav")
    with pytest.raises(SettingError, match=r"testing_list.txt has clips of the word word"):
        ready(SpeechCommands(str(tmp_path), streams=of(1.0), **SMALL)).setup("test")
    (tmp_path / "testing_list.txt").unlink()
    with pytest.raises(SettingError, match=r"contains no testing_list.txt"):
        ready(SpeechCommands(str(tmp_path), streams=of(1.0), **SMALL))


@pytest.mark.parametrize("kind", [AudioSet, VGGSound, ESC50])
def test_missing_lists(kind: type[VideoDataModule], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"contains no .*\.csv; set data\.lists"):
        ready(kind(str(tmp_path), streams=of(1.0), **SMALL))


def test_weights_against_imbalance() -> None:
    alone, both = balancing_weights([[0], [0, 1]], 3)
    rare, often = 1000 / 1.01, 1000 / 2.01
    assert np.allclose([alone, both], [often, often + rare])
    assert balancing_weights([[], [2]], 3).tolist() == [0, pytest.approx(1000 / 1.01)]

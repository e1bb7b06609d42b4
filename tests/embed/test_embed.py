"""Features of a folder of videos: correct values and times, also after the command was killed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.sets.feature_sequences import FeatureSequences
from datamodules.settings import ListSettings, ReadSettings
from main import main
from modules.convert.load import load_backbone
from modules.core.errors import SettingError
from modules.embed.files import Parts
from modules.embed.windows import windows_of
from tests.datamodules.video_files import decode_all, write_video
from tests.embed.helpers import BROKEN, embed, part_items, rows_of
from tests.registry import FRAMES, SIDE


def test_features_are_those_of_the_middle_of_each_video(folder: Path, tmp_path: Path) -> None:
    found = embed(folder, tmp_path / "features", "--store=float32")
    rows = rows_of(tmp_path / "features")
    assert found["feature"].shape == (8, 32)
    assert len(rows) == 8
    network: Any = load_backbone(folder / "vit.safetensors")
    for place in (0, 7):
        assert rows[place]["label"] == Path(rows[place]["path"]).parent.name
        frames = torch.from_numpy(np.stack(decode_all(folder / "motion" / rows[place]["path"])))
        first = (32 - 3 * FRAMES) // 2
        clip = frames[first : first + 3 * FRAMES : 3]
        small = torch.nn.functional.interpolate(
            clip.permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="bilinear", antialias=True
        ).permute(0, 2, 3, 1)
        with torch.no_grad():
            wanted = network(network.preprocess(small[None]))[0]
        assert torch.allclose(found["feature"][place], wanted, atol=1e-5)
        assert found["time"][place].tolist() == pytest.approx([first / 12, (first + 9) / 12], abs=1e-3)
    assert (tmp_path / "features.bad.tsv").read_text().splitlines()[1].startswith(f"{BROKEN}\t")
    passport = json.loads((tmp_path / "features.json").read_text())
    assert passport["sampling"] == {"frames": FRAMES, "stride": 3, "clips": 1, "every": None}
    assert not (tmp_path / "features.parts").exists()


@pytest.mark.parametrize(("stride", "told"), [(3, True), (1, False)])
def test_clips_longer_than_their_windows_are_announced(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stride: int, told: bool
) -> None:
    # At 12 frames per second a window has six frames.
    with caplog.at_level("INFO"):
        embed(folder, tmp_path / "features", "--every=0.5", f"--stride={stride}")
    assert ("In 8 of 9 videos clips are longer than 0.5 s" in caplog.text) is told


def test_the_collection_is_a_data_set(folder: Path, tmp_path: Path) -> None:
    found = embed(folder, tmp_path / "features", "--every=0.5", "--store=float32")
    lists = ListSettings(train=str(tmp_path / "features.csv"))
    data = FeatureSequences(str(tmp_path), lists, batch_size=4, reading=ReadSettings(num_workers=0), seed=0)
    data.setup("fit")
    for batch in data.train_dataloader():
        stream = batch.stream("feature", "feature")
        assert torch.equal(stream.data[:, 0], found["feature"][batch.index])
        assert stream.length is not None
        assert (stream.length == 5).all()
        names = [data.class_names[label] for label in batch.label.tolist()]  # type: ignore[index]
        assert names == [rows_of(tmp_path / "features")[row]["label"] for row in batch.index.tolist()]


def test_a_killed_command_goes_on_and_writes_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_items(monkeypatch, 3)
    embed(folder, tmp_path / "whole")
    write, made = Parts.write, []

    def killed(self: Parts, number: int, steps: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        made.append(number)
        write(self, number, steps)

    monkeypatch.setattr(Parts, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(folder, tmp_path / "again")
    monkeypatch.setattr(Parts, "write", lambda self, number, steps: (made.append(number), write(self, number, steps)))
    with pytest.raises(SettingError, match=r"holds features that were made with another clip, reading; pass another --out"):
        embed(folder, tmp_path / "again", "--stride=1")
    embed(folder, tmp_path / "again")
    assert made == [0, 1, 2]
    for suffix in (".safetensors", ".json", ".bad.tsv"):
        assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes(), suffix
    embed(folder, tmp_path / "again")
    assert made == [0, 1, 2], "what is there is not made again"
    with pytest.raises(SettingError, match=r"again\.safetensors is of another job; pass another name, or --overwrite true"):
        embed(folder, tmp_path / "again", "--stride=1")


def test_shares_together_write_what_one_writes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part_items(monkeypatch, 2)
    whole = embed(folder, tmp_path / "whole")
    assert not embed(folder, tmp_path / "shared", "--shard=2/2")
    shared = embed(folder, tmp_path / "shared", "--shard=1/2")
    assert torch.equal(shared["feature"], whole["feature"])
    with pytest.raises(SettingError, match="--shard is 3/2; it must be like 2/4"):
        embed(folder, tmp_path / "none", "--shard=3/2")


def test_sequences_have_a_step_for_each_window(folder: Path, tmp_path: Path) -> None:
    found = embed(folder, tmp_path / "features", "--every=0.5", "--store=float32")
    assert found["feature"].shape == (8, 5, 32)
    assert found["length"].tolist() == [5] * 8
    assert found["time"][0].flatten().tolist() == pytest.approx([0, 0.5, 0.5, 1, 1, 1.5, 1.5, 2, 2, 32 / 12], abs=1e-5)
    assert not torch.allclose(found["feature"][0, 0], found["feature"][0, 4])
    assert windows_of(1.0, 5.0) == [(0.0, 1.0)]
    assert windows_of(12.0, 5.0) == [(0.0, 5.0), (5.0, 12.0)]
    assert windows_of(13.0, 5.0)[-1] == (10.0, 13.0)


@pytest.mark.parametrize("encoder", ["vit", "cnn"])
def test_slices_and_tokens_average_to_the_pooled_feature(encoder: str, folder: Path, tmp_path: Path) -> None:
    options = ("--store=float32", f"--size={SIDE}")
    found = {what: embed(folder, tmp_path / what, f"--what={what}", *options, encoder=encoder) for what in ("slices", "tokens")}
    pooled = embed(folder, tmp_path / "pooled", *options, encoder=encoder)["feature"]
    assert found["tokens"]["feature"].shape[1] == (32 if encoder == "vit" else 1 * 2 * 2)
    for one in found.values():
        assert torch.allclose(one["feature"].mean(1), pooled, atol=1e-5)
    time = found["slices"]["time"][0]
    assert torch.equal(time[1:, 0], time[:-1, 1])


def test_impossible_settings_are_refused(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--every=1", "--clips=2"), "pass only one of them"),
        (("--data=SyntheticMotion",), "Pass either --source, a folder or list of videos, or --data"),
        (("--split=val",), "--split is for --data; pass the folder of a split as --source"),
        (("--devices=2", "--device=cpu:0"), "--device is cpu:0, one device, but --devices is 2; pass --device cpu"),
        ((f"--frames={FRAMES + 1}",), "frames"),
        ((f"--size={SIDE + 1}",), "size"),
        (("--device=cuda:77",), "--device is cuda:77, which is not here"),
        (("--batch_size=0",), "--batch_size is 0; it must be a whole number of at least 1"),
        ((f"--source={tmp_path}",), "which contains no video"),
        (("--checkpoint=no.ckpt",), "--checkpoint names no.ckpt, which does not exist"),
        (("--source=nowhere",), "--source is nowhere; pass an existing folder"),
        ((f"--source={folder / 'motion' / BROKEN}",), "pass an existing folder of videos, or a list"),
    ):
        with pytest.raises(SettingError, match=message):
            embed(folder, tmp_path / "features", *options)


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in (("/proc/x/features", "/proc/x"), (tmp_path / "file/features", "is not a folder")):
        with pytest.raises(SettingError, match=f"--out {Path(out).parent}.* cannot be written .*{message}.* another"):
            embed(folder, Path(out))


def test_videos_that_are_short_odd_or_all_broken(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/one.mp4", frames=2, size=(50, 34))
    found = embed(folder, tmp_path / "short", f"--source={tmp_path / 'videos'}", "--batch_size=1")
    assert found["feature"].shape == (1, 32)
    (tmp_path / "videos/one.mp4").write_bytes(b"no video")
    with pytest.raises(SettingError, match=r"None of the 1 recordings could be read \(the first: .*\); mend them"):
        embed(folder, tmp_path / "broken", f"--source={tmp_path / 'videos'}")
    write_video(tmp_path / "videos/one.mp4")
    assert len(embed(folder, tmp_path / "broken", f"--source={tmp_path / 'videos'}")["feature"]) == 1, "mended"


def test_large_labels_stay_numbers(folder: Path, tmp_path: Path) -> None:
    paths = [row.relative_to(folder / "motion") for row in sorted(folder.glob("motion/val/*/*.mp4"))]
    (tmp_path / "list.csv").write_text("".join(f"{path},{99999999 - place}\n" for place, path in enumerate(paths)))
    embed(folder, tmp_path / "features", f"--source={tmp_path / 'list.csv'}", f"--root={folder / 'motion'}")
    assert [row["label"] for row in rows_of(tmp_path / "features")] == ["99999999", "99999998"]
    data = FeatureSequences(str(tmp_path), ListSettings(train=str(tmp_path / "features.csv")), batch_size=2)
    with pytest.raises(SettingError, match="has the label 99999999; there may be 1000000 classes"):
        data.setup("fit")


def test_another_folder_with_the_same_names_is_another_job(folder: Path, tmp_path: Path) -> None:
    embed(folder, tmp_path / "features")
    shutil.copytree(folder / "motion", tmp_path / "motion")
    with pytest.raises(SettingError, match="is of another job"):
        embed(folder, tmp_path / "features", f"--source={tmp_path / 'motion'}")


def test_what_a_data_set_refuses_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    words = ["embed", f"--checkpoint={folder / 'vit.safetensors'}", f"--out={tmp_path / 'features'}"]
    with pytest.raises(SettingError, match=r"^data\.batch_size is 64 but data\.train_videos is 4"):
        main([*words, "--data=SyntheticMotion", "--data.train_videos=4", "--data.val_videos=4"])

"""From videos of cameras and data sets to features, a map and predictions."""

import csv
import json
import os
import re
from pathlib import Path

import pytest

from main import main
from modules.embed.collection import read_collection
from tests.pages import ROOT

VIDEOS_DIR = Path(os.environ.get("VIDEOS_DIR", Path(__file__).parents[2] / "shared" / "videos"))
SECONDS = {
    "arm_wrestling_kinetics": 10.0,
    "demo_spatiotemporal_det": 9.5,
    "flipping_a_pancake": 10.3,
    "h264_340x256_long_gop": 10.0,
    "mpeg4_320x240": 6.5,
    "nasa_13013": 13.0,
    "S001C001P001R001A001_rgb": 3.4,
    "test_video_structuralize": 10.0,
}
CUTS = 5


@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS_DIR.is_dir(), reason=f"there are no real videos in {VIDEOS_DIR}; set VIDEOS_DIR")
@pytest.mark.timeout(3600)
def test_forty_real_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    parts = {name: [[n * end / CUTS, (n + 1) * end / CUTS] for n in range(CUTS)] for name, end in SECONDS.items()}
    database = {
        name: {"subset": "training", "annotations": [{"segment": part, "label": name} for part in all_parts]}
        for name, all_parts in parts.items()
    }
    Path("cuts.json").write_text(json.dumps({"database": database}))
    main(["prepare", "videos", f"--source={VIDEOS_DIR}", "--out=cut", "--list=cuts.json", "--short_side=128"])
    for video in sorted(Path("cut").glob("*.mp4")):
        _, name, _ = re.split(r"^v_|_(?=\d$)", video.stem)
        for folder in (f"real/{name}", "unsorted"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, video.name).symlink_to(video.absolute())
    quick = ["--data.reading.num_workers=1", "--trainer.enable_progress_bar=false"]
    pretrain = ["fit", "--config=configs/own_videos.yaml", "--data.root=real", "--data.batch_size=20"]
    main([*pretrain, "--trainer.max_epochs=3", *quick])
    encoder = "runs/own_videos/checkpoints/last.ckpt"
    main(["embed", f"--checkpoint={encoder}", "--source=real", "--out=features/real", "--num_workers=1"])
    found = read_collection(Path("features/real"))
    assert found.feature.shape == (40, 96)
    assert sorted(set(found.labels)) == sorted(SECONDS)
    assert all(found.file(row).is_file() for row in range(40))

    main(["map", "--features=features/real", "--num_workers=1"])
    assert all(Path(f"features/real_map{end}").exists() for end in (".png", ".html", ".projector"))
    main(["predict", "--config=configs/own_videos.yaml", "--data.root=real", f"--ckpt_path={encoder}", *quick])
    again = read_collection(Path("runs/own_videos/predictions/videofolder"))
    assert sorted(again.paths) == sorted(found.paths)

    tune = ["fit", "--config=configs/finetune/own_videos.yaml", "--data.root=real", f"--model.backbone.checkpoint={encoder}"]
    main([*tune, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1", *quick])
    trained = "runs/finetune_own_videos/checkpoints/last.ckpt"
    main(["predict", "--config=configs/finetune/own_videos.yaml", "--data.root=unsorted", f"--ckpt_path={trained}", *quick])
    with Path("runs/finetune_own_videos/predictions/videofolder.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 40
    assert {row["class"] for row in rows} <= set(SECONDS)
    assert all(1 / 8 <= float(row["probability"]) <= 1 for row in rows)

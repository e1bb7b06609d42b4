"""Files written before the modules were moved to where they are: weights and exports load, and a run resumes.

The files in `earlier/` are of the version before, trained for three steps on generated clips: an export of VideoMAE under
our names and under official ones, the backbones of MoCo and of skeleton contrast, and a checkpoint of the VideoMAE run within
an epoch. The expected values were computed by that version.
"""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from main import main
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.weights.passport import read_passport

EARLIER = Path(__file__).with_name("earlier")
ROOT = Path(__file__).parents[2]
FEATURES = {
    "videomae.safetensors": [
        0.02303411,
        0.01999118,
        -0.31464773,
        -0.39247128,
        0.27888805,
        -0.93177795,
        -0.43412474,
        1.00786090,
    ],
    "moco_backbone.safetensors": [0.05642498, 0.07533305, 0.05685455, 0.05120879, 0.13051750, 0.05159117, 0.0, 0.0],
    "skeleton_backbone.safetensors": [
        *(-0.09836300, 0.33114159, -0.16888866, 0.39101049, -0.72791469, -0.30850852, 0.60435587, 0.21137999),
    ],
}
FEATURES["videomae_official.pth"] = FEATURES["videomae.safetensors"]
AFTER_FOUR_STEPS = 1526.9376095861867
"""Sum of the absolute values of all weights of the run, had it not been stopped."""


def pattern(*shape: int) -> Tensor:
    """Numbers from 0 to 250 without a pattern that a network could fall for."""
    return (torch.arange(torch.Size(shape).numel()).reshape(shape) * 7919) % 251


def vit(checkpoint: str) -> nn.Module:
    return VideoViT("micro", 32, 4, patch_size=8, embed_dim=16, depth=2, num_heads=2, checkpoint=checkpoint)


@pytest.mark.parametrize("name", FEATURES)
@torch.no_grad()
def test_weights_load_and_give_the_same_features(name: str) -> None:
    path = str(EARLIER / name)
    if name.startswith("skeleton"):
        found = BiGRU(4, checkpoint=path).eval()(pattern(2, 3, 4, 25, 2) / 251 - 0.5)
    else:
        network = VideoResNet("r2plus1d_18", width=2, checkpoint=path) if name.startswith("moco") else vit(path)
        found = network.eval()(network.preprocess(pattern(2, 4, 32, 32, 3).to(torch.uint8)))
    torch.testing.assert_close(found.flatten()[:8], torch.tensor(FEATURES[name]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FEATURES)
def test_passports_are_read(name: str) -> None:
    passport = read_passport(EARLIER / name)
    assert passport["frames"] == (64 if name.startswith("skeleton") else 4)
    assert passport["source"]["file"] == "last.ckpt"


RUN = [
    *("fit", "--config", str(ROOT / "configs/videomae.yaml"), "--config", str(ROOT / "configs/debug/tiny.yaml")),
    *("--data=SyntheticMotion", "--data.train_videos=16", "--data.val_videos=4", "--model.backbone.patch_size=8"),
    *(
        "--model.backbone.embed_dim=16",
        "--model.decoder.dim=8",
        "--model.decoder.heads=1",
        "--trainer.callbacks=LastCheckpoint",
    ),
    *("--trainer.limit_train_batches=4", "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"),
]


def test_a_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(EARLIER / "videomae_run.ckpt", tmp_path / "checkpoints/last.ckpt")
    main([*RUN, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"])
    ended = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert ended["global_step"] == 4
    total = sum(value.double().abs().sum().item() for value in ended["state_dict"].values())
    assert total == pytest.approx(AFTER_FOUR_STEPS, rel=1e-7)


def test_the_settings_of_the_run_are_refused_in_one_sentence(tmp_path: Path) -> None:
    content = torch.load(EARLIER / "videomae_run.ckpt", weights_only=True)
    (tmp_path / "config.yaml").write_text(content["record"]["config"])
    with pytest.raises(SettingError) as refused:
        main(["fit", "--config", str(tmp_path / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'run'}"])
    assert len(str(refused.value).splitlines()) == 1
    for old, new in (("model.decoder_depth", "model.decoder.depth"), ("data.clip.stride", "data.clip.sampler.stride")):
        assert re.search(rf"{old} \(line \d+\) is {new}", str(refused.value))


def test_a_class_of_before_is_refused_by_its_new_name(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as refused:
        main([*RUN, "--trainer.callbacks=modules.core.last_checkpoint.LastCheckpoint"])
    assert str(refused.value) == (
        "trainer.callbacks: there is no class modules.core.last_checkpoint.LastCheckpoint; did you mean LastCheckpoint?"
    )

"""Weights in bfloat16: every method trains, draws the same as in float32, and keeps values that must not be rounded."""

import copy
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Trainer

from main import main
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.layers.contrast.momentum import follow, frozen_copy
from modules.methods.moco import MoCo
from modules.runs.nonfinite import NonFiniteGuard
from modules.training.method import Method
from modules.training.precision import BFloat16Weights
from tests.methods.test_common import build
from tests.registry import CONTRAST, DOWNSTREAM, METHODS, SGD, Case, tiny_vit

ROOT = Path(__file__).parents[2]
# On a CPU, PyTorch's gradients of convolutions in bfloat16 are now and then what happened to be in memory, in bf16-mixed too.
WITHOUT_GRADIENT = ("MoCo", "CVRL", "TubeletContrast", "SkeletonContrast", "RSPNet", "VCOP", "PRP", "RotNet")
everywhere = pytest.mark.parametrize("case", METHODS, ids=lambda case: case.name)


def fit(case: Case, method: Method, folder: Path, steps: int = 2) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, max_steps=steps, limit_val_batches=1,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        plugins=[BFloat16Weights()], callbacks=[NonFiniteGuard()], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(method, datamodule=case.data(4, 8, 4))
    return trainer


@everywhere
def test_draws_are_those_of_float32(case: Case) -> None:
    """Masks, motion and colours, by what they make of the clips."""
    plain, low, plugin = build(case), build(case), BFloat16Weights()
    plugin.convert_module(low)
    shown = []
    for method, context in ((plain, torch.autocast("cpu", enabled=False)), (low, plugin.forward_context())):
        torch.manual_seed(1)
        with context:
            output = method.step(case.batch(), torch.Generator().manual_seed(2))
        assert output["loss"].isfinite()
        assert output["loss"].dtype == torch.float32
        shown.append(output["show"])
    for name in {"clip", "key_clip", "masked", "decoded", "skeleton", "key_skeleton", "boxes"} & shown[0].keys():
        assert torch.equal(shown[0][name], shown[1][name]), name


@pytest.mark.parametrize(
    "case", [case for case in (*METHODS, *DOWNSTREAM) if case.name not in WITHOUT_GRADIENT], ids=lambda case: case.name
)
def test_two_steps_and_a_validation(case: Case, tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    method = build(case)
    before = copy.deepcopy(method.state_dict())
    trainer = fit(case, method, tmp_path)
    assert trainer.precision == "bf16-true"
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert trainer.callback_metrics["val/loss"].isfinite()
    low = [name for name, value in method.named_parameters() if value.dtype == torch.bfloat16]
    assert all(name.endswith(("weight", "bias")) for name in low)
    transformers = ("VideoViT", "SpacetimeViT", "VJEPAViT", "BEiTVideo", "FrameTower", "SequenceTransformer")
    assert bool(low) == any(part in repr(method) for part in transformers)
    # Only the head of a linear classifier is trained.
    moved = [name for name, value in method.state_dict().items() if not torch.equal(value, before[name].to(value.dtype))]
    assert moved
    state = trainer.optimizers[0].state
    assert all(values["exp_avg"].dtype == value.dtype for value, values in state.items() if "exp_avg" in values)


def test_slow_copies_heads_and_norms_stay_in_float32_and_follow() -> None:
    method = MoCo(tiny_vit(), CONTRAST, optim=SGD, flip=0.5)
    BFloat16Weights().convert_module(method)
    kept = {name for name, value in method.named_parameters() if value.dtype == torch.float32}
    assert {name for name, _ in method.named_parameters() if name.startswith("contrast.")} <= kept
    assert {name for name, _ in method.named_parameters() if "norm" in name} <= kept
    assert {name for name, _ in method.named_parameters() if "attn.qkv" in name and name.startswith("backbone.")}.isdisjoint(
        kept
    )
    online = torch.nn.Linear(2, 2).to(torch.bfloat16)
    slow = frozen_copy(online).float()
    with torch.no_grad():
        online.weight.fill_(1.0)
        slow.weight.fill_(0.0)
    follow(slow, online, 0.999)
    assert torch.allclose(slow.weight, torch.full((2, 2), 0.001))


def test_the_command_line_takes_this_plugin_whose_checkpoints_load_elsewhere(tmp_path: Path) -> None:
    words = [f"--config={ROOT / 'configs' / name}" for name in ("videomae.yaml", "trainer/laptop.yaml", "debug/tiny.yaml")]
    words += [
        "--data=SyntheticMotion",
        "--trainer.callbacks=[]",
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.logger=false",
    ]
    cli = main(["fit", *words, "--trainer.precision=bf16-true", "--trainer.enable_progress_bar=false"])
    assert cli is not None
    assert isinstance(cli.trainer.precision_plugin, BFloat16Weights)
    path = tmp_path / "checkpoints/last.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert weights["backbone.blocks.0.mlp.fc1.weight"].dtype == torch.bfloat16
    again = VideoViT("micro", 32, 4, 16, embed_dim=32, depth=2, num_heads=2, checkpoint=str(path))
    assert all(value.dtype == torch.float32 for value in again.parameters())


def test_float16_stays_refused(tmp_path: Path) -> None:
    case = METHODS[0]
    with pytest.raises(SettingError, match=r"^trainer\.precision is 16-true"):
        Trainer(accelerator="cpu", precision="16-true", logger=False, enable_checkpointing=False).fit(
            build(case), datamodule=case.data(4, 8, 4)
        )

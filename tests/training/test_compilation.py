"""Compiled parts: no graph break, the same numbers and names, and resuming with and without compilation."""

import copy
import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from main import main
from modules.backbones.image_towers import PatchTokens
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.core.errors import SettingError
from modules.layers.targets import PixelTarget, TowerTarget
from modules.masks.tokens import TubeMask
from modules.methods.moco import MoCo
from modules.methods.videomae import VideoMAE
from modules.training import compilation
from modules.training.compilation import Compile, compile_parts
from modules.training.method import Method
from tests.methods.test_common import build, fit
from tests.registry import CONTRAST, DOWNSTREAM, FRAMES, METHODS, OPTIM, SGD, SIDE, Case, tiny_vit

ROOT = Path(__file__).parents[2]
COMPILED = [case for case in (*METHODS, *DOWNSTREAM) if not case.skeletons]
QUICK = ("VideoMAE", "LocoMotion", "linear")
"""One for each kind of network."""


class Graphs:
    """A backend that counts graphs and runs them with the kernels of eager PyTorch."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    # pytest would format all that PyTorch notes about each graph.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "propagate", False)


def gradients(method: Method, case: Case, steps: int = 2) -> dict[str, torch.Tensor]:
    """Of the losses of some steps, whose sum is among them."""
    losses = torch.zeros(())
    for step in range(steps):
        torch.manual_seed(step)
        loss = method.step(case.batch(seed=step), torch.Generator().manual_seed(step))["loss"]
        loss.backward()
        losses = losses + loss.detach()
    return {"loss": losses} | {name: value.grad for name, value in method.named_parameters() if value.grad is not None}


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal within 1e-5 of the largest gradient: parameters before BatchNorm have none but rounding."""
    assert found.keys() == wanted.keys()
    largest = max(float(value.abs().max()) for name, value in wanted.items() if name != "loss")
    assert float(found["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-5)
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=2e-5 * largest), name


@pytest.mark.parametrize(
    "case", [pytest.param(one, id=one.name, marks=[] if one.name in QUICK else [pytest.mark.slow]) for one in COMPILED]
)
def test_blocks_compile_whole_with_equal_loss_gradients_and_names(case: Case) -> None:
    """`fullgraph` makes a graph break an error."""
    plain, compiled, graphs = build(case), build(case), Graphs()
    names = list(compiled.state_dict())
    count = compile_parts(compiled, "blocks", graphs)
    assert count >= 2
    assert list(compiled.state_dict()) == names
    assert_close(gradients(compiled, case), gradients(plain, case))
    assert graphs.count
    for one in (plain, compiled):
        one.eval()
    assert torch.allclose(plain.embed(case.batch(2)), compiled.embed(case.batch(2)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VideoMAE", "SMILE", "SIGMA", "LocoMotion", "MoCo", "fine-tuning"])
def test_inductor_gives_equal_loss_and_gradients(name: str) -> None:
    case = next(case for case in COMPILED if case.name == name)
    plain, compiled = build(case), build(case)
    compile_parts(compiled, "blocks")
    assert_close(gradients(compiled, case), gradients(plain, case))


@pytest.mark.slow
def test_of_cnns_compiled_gradients_differ_by_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 those of MoCo differ by 1.4e-5 of the largest, in sums over many pixels; here the sums are exact enough."""
    case = next(case for case in COMPILED if case.name == "MoCo")
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    plain, compiled = build(case).double(), build(case).double()
    compile_parts(compiled, "blocks")
    torch.set_default_dtype(torch.float64)
    try:
        found, wanted = gradients(compiled, case), gradients(plain, case)
    finally:
        torch.set_default_dtype(torch.float32)
    largest = max(float(value.abs().max()) for name, value in wanted.items() if name != "loss")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert value.dtype == torch.float64
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-12 * largest), name


class Tower(nn.Module):
    """Two convolutions whose map is a row of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Conv2d(8, 6, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[F, 3, H, W] -> [F, h * w, 6]"""
        return self.layers(frames).flatten(2).transpose(1, 2)


def test_all_also_compiles_the_frozen_tower() -> None:
    def method() -> VideoMAE:
        torch.manual_seed(0)
        target = TowerTarget(Tower(), 6, SIDE, 8)
        return VideoMAE(tiny_vit(), target, TubeMask(0.5), DecoderSettings(1), optim=OPTIM)

    case = METHODS[0]
    plain, compiled, graphs = method(), method(), Graphs()
    blocks = compile_parts(method(), "blocks", graphs)
    assert compile_parts(compiled, "all", graphs) == blocks + 1
    assert_close(gradients(compiled, case), gradients(plain, case))
    tower, towers = compiled.target.tower, Graphs()  # type: ignore[attr-defined]
    torch._dynamo.reset()
    tower.compile(fullgraph=True, backend=towers)
    compiled.targets(case.batch().stream("video").data[:, 0], torch.zeros(4, 2, dtype=torch.int64))
    assert towers.count == 1


@pytest.mark.parametrize("pretrained", ["clip", "dino"])
def test_towers_of_timm_have_no_graph_break(pretrained: str) -> None:
    import timm

    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIDE, "patch_size": 8, "num_classes": 0}
    name = {"clip": "vit_base_patch16_clip_quickgelu_224", "dino": "vit_small_patch14_reg4_dinov2"}[pretrained]
    tower = PatchTokens(timm.create_model(name, pretrained=False, **sizes)).eval().requires_grad_(False)
    frames = torch.randn(2, 3, SIDE, SIDE)
    wanted, graphs = tower(frames), Graphs()
    tower.compile(fullgraph=True, backend=graphs)
    with torch.inference_mode():
        assert torch.allclose(tower(frames), wanted, atol=1e-6)
    assert graphs.count == 1


def test_stochastic_depth_at_every_rate_and_recomputed_blocks() -> None:
    """Each rate is compiled separately: more versions than PyTorch allows by default."""

    def clips(compiled: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(0)
        vit = VideoViT("micro", SIDE, FRAMES, 8, embed_dim=16, depth=10, num_heads=2, drop_path=0.9, recompute_blocks=True)
        if compiled:
            compile_parts(vit, "blocks", Graphs())
        torch.manual_seed(1)
        result = vit(torch.randn(4, 3, FRAMES, SIDE, SIDE))
        result.square().sum().backward()
        return result, [value.grad for value in vit.parameters() if value.grad is not None]

    (wanted, plain), (found, compiled) = clips(False), clips(True)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(compiled, plain, strict=True))


def test_copies_are_not_compiled_and_copies_made_before_are() -> None:
    case = next(case for case in METHODS if case.name == "MoCo")
    method, graphs = MoCo(tiny_vit(), CONTRAST, optim=SGD, flip=0.5), Graphs()
    assert compile_parts(method, "blocks", graphs) == 4, "two blocks of each branch"
    copied = copy.deepcopy(method)
    copied.step(case.batch(), torch.Generator().manual_seed(0))
    assert graphs.count == 0
    assert not {id(value) for value in copied.parameters()} & {id(value) for value in method.parameters()}
    method.step(case.batch(), torch.Generator().manual_seed(0))
    assert graphs.count


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Runs compile with a backend that counts and needs no compiler."""
    graphs, real = Graphs(), compile_parts
    monkeypatch.setattr(compilation, "compile_parts", lambda module, what: real(module, what, graphs))
    return graphs


def test_compiled_and_plain_runs_resume_each_other(tmp_path: Path, counted: Graphs) -> None:
    case = METHODS[0]
    ends = []
    for number, order in enumerate(([False, False], [True, False], [False, True])):
        path = None
        for epochs, compiled in enumerate(order, 1):
            method = build(case, seed=epochs)
            lightning.seed_everything(5)
            callbacks = [Compile("blocks")] if compiled else []
            trainer = lightning.Trainer(
                accelerator="cpu",
                max_epochs=epochs,
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                default_root_dir=tmp_path,
                callbacks=callbacks,  # type: ignore[arg-type]
            )
            trainer.fit(method, case.data(4, 8, 4), ckpt_path=path, weights_only=True)
            path = tmp_path / f"{number}.ckpt"
            trainer.save_checkpoint(path)
        ends.append(method.state_dict())
    assert counted.count
    for end in ends[1:]:
        assert all(torch.allclose(value, ends[0][name], atol=1e-5) for name, value in end.items())


def test_a_setting_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(compilation, "compile_parts", lambda module, what: asked.append(what) or 1)
    words = [f"--config={ROOT / 'configs' / name}" for name in ("videomae.yaml", "trainer/laptop.yaml", "debug/tiny.yaml")]
    main(["fit", *words, "--data=SyntheticMotion", "--trainer.fast_dev_run=true", "--trainer.callbacks=[]", "--compile=blocks"])
    assert asked == ["blocks"]
    with pytest.raises(SettingError, match="compile"):
        main(["fit", *words, "--compile=everything"])


def test_nothing_to_compile_and_no_compiler_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skeletons = next(case for case in METHODS if case.skeletons)
    with pytest.raises(SettingError, match="SkeletonContrast has no part that can be compiled; set compile to none"):
        fit(skeletons, build(skeletons), tmp_path, callbacks=[Compile("blocks")])
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingError, match=r"compile is all, which needs .* but no-such-compiler cannot be found"):
        fit(METHODS[0], build(METHODS[0]), tmp_path, callbacks=[Compile("all")])


def test_pixel_targets_have_nothing_to_compile() -> None:
    method = VideoMAE(tiny_vit(), PixelTarget(), TubeMask(0.5), DecoderSettings(1), optim=OPTIM)
    assert compile_parts(method, "all", Graphs()) == compile_parts(method, "blocks", Graphs()) == 3
    assert compile_parts(method, "none", Graphs()) == 0

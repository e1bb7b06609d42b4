"""SIGMA against tensors of its official code: assignments, losses and gradients, alone and in two processes."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import unlabelled
from modules.core.loading import load_strictly
from modules.core.tokens import Grid, gather_tokens
from modules.layers.heads import VideoClassifier
from modules.layers.targets import PixelTarget, Target, TowerTarget
from modules.losses.sinkhorn import SinkhornSettings, balance, shares
from modules.masks.base import mask_from_bool
from modules.masks.tokens import TubeMask
from modules.methods.sigma import SIGMA, MLPSettings, sizes_of, swapped_loss
from modules.weights.names.videomae import from_official, to_official
from tests.parity.cases import PARITY_DIR, as_clips, assert_close, load_case, part
from tests.parity.test_masked_methods import FakeTower, FixedMask, build_backbone
from tests.resume.runs import as_torchrun_does, together


def assignments(scores: Tensor, settings: SinkhornSettings, over_processes: bool = False) -> Tensor:
    """Q of given scores: float32 [n, K] -> [n, K], rows sum to 1."""
    balanced = balance([scores], torch.eye(scores.shape[1]), settings, over_processes)
    return shares(scores, balanced.log_weights[0], settings.epsilon)


def sinkhorn_settings(info: dict) -> SinkhornSettings:
    sizes = info["constructor"]
    return SinkhornSettings(sizes["eps"], sizes["sinkhorn_iterations"])


def build(tensors: dict[str, Tensor], info: dict) -> SIGMA:
    """The method with the weights of a case; its prototypes and MLP are as large as the case has them."""
    sizes, video = info["constructor"], tensors["input.video"]
    weights = from_official(part(tensors, "state."))
    count, width, widths = sizes_of(weights)
    target: Target = PixelTarget()
    if widths is None:
        features = tensors["input.teacher_features"].flatten(0, 1)
        target = TowerTarget(FakeTower(features), width, sizes["img_size"], sizes["patch_size"])
    method = SIGMA(
        build_backbone(sizes | {"num_frames": video.shape[2]}),
        target,
        FixedMask(mask_from_bool(tensors["input.mask"])),
        MLPSettings(widths) if widths is not None else None,
        num_prototypes=count,
        sinkhorn=sinkhorn_settings(info),
        decoder=DecoderSettings(sizes["decoder_depth"], sizes["decoder_embed_dim"], sizes["decoder_num_heads"]),
    )
    load_strictly(method, weights, "case")
    return method.eval()


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("case", ["pretrain_mlp", "pretrain_teacher"])
def test_step(case: str, side_by_side: bool) -> None:
    tensors, info = load_case("sigma", case)
    method = build(tensors, info)
    method.sinkhorn.side_by_side = side_by_side
    mask, grid = method.mask.mask, method.backbone.grid
    encoded = method.backbone.forward_features(tensors["input.video"], mask.visible)
    assert_close(encoded, tensors["output.encoder"], "encoder")
    labels = gather_tokens(method.target(tensors["input.video"], grid), mask.targets)
    assert_close(labels, tensors["output.labels"], "labels")
    output = method.step(unlabelled(as_clips(tensors["input.video"])), None)
    assert_close(output["show"]["prediction"], tensors["output.pred"], "prediction")
    assert_close(method.prototypes.detach(), tensors["output.prototypes_after_forward"], "prototypes")
    for branch, name, features in ((0, "target", output["show"]["target"]), (1, "pred", output["show"]["prediction"])):
        scores = torch.nn.functional.normalize(features, dim=-1) @ method.prototypes.detach().T
        assert_close(scores, tensors[f"output.scores_{name}"], f"scores of {name}")
        q = assignments(scores.flatten(0, 1), method.sinkhorn).unflatten(0, features.shape[:2])
        assert_close(q, tensors[f"output.q_{name}"], f"Q of {name}")
        assert torch.equal(output["show"]["assigned"][:, branch], tensors[f"output.assign_{name}"])
        loss = output["log"]["loss_target" if branch == 0 else "loss_prediction"]
        assert_close(loss, tensors[f"output.loss_{name}"].reshape(()), f"loss of {name}")
    assert_close(output["loss"].detach(), tensors["output.loss"].reshape(()), "loss")
    output["loss"].backward()
    gradients = {name: value.grad for name, value in method.named_parameters() if value.grad is not None}
    named = to_official(gradients, grid)
    total = torch.stack([value.square().sum() for value in named.values()]).sum().sqrt()
    assert_close(total, tensors["output.grad_norm_total"].reshape(()), "norm of all gradients")
    expected = part(tensors, "output.grad.")
    assert expected
    for name, value in expected.items():
        assert_close(named[name], value, f"gradient of {name}")


def test_bf16_changes_no_assignment_of_the_same_features() -> None:
    tensors, info = load_case("sigma", "pretrain_mlp")
    prototypes = tensors["output.prototypes_after_forward"]
    method = build(tensors, info)
    features = [method.projection(tensors["output.labels"]).flatten(0, 1), tensors["output.pred"].flatten(0, 1)]
    plain = swapped_loss(*features, prototypes, 0.1, sinkhorn_settings(info))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = swapped_loss(*features, prototypes, 0.1, sinkhorn_settings(info))
    assert torch.equal(plain.assigned, mixed.assigned)
    assert torch.equal(plain.target, mixed.target)
    assert torch.equal(plain.prediction, mixed.prediction)


def test_sinkhorn() -> None:
    tensors, info = load_case("sigma", "sinkhorn")
    scores, sizes = tensors["input.scores"], info["settings"]
    q = assignments(scores, SinkhornSettings(sizes["eps"], sizes["iterations"]))
    assert_close(q, tensors["output.q"], "Q", info["suggested_tolerance"])
    once = assignments(scores, SinkhornSettings(sizes["eps"], 1))
    assert_close(once, tensors["output.q_one_iteration"], "Q after one iteration", info["suggested_tolerance"])
    assert_close(q.sum(dim=0), tensors["output.column_mass"], "mass of the prototypes", info["suggested_tolerance"])
    assert torch.equal(q.argmax(dim=1), tensors["output.assign"])


def one_process(folder: Path, rank: int, port: int) -> None:
    """One of two processes, with its half of the scores."""
    torch.set_num_threads(1)
    os.environ |= as_torchrun_does(rank, 2, port)
    distributed.init_process_group("gloo")
    tensors, info = load_case("sigma", "sinkhorn_two_process")
    settings = SinkhornSettings(info["settings"]["eps"], info["settings"]["iterations"])
    scores = tensors[f"input.scores_rank{rank}"]
    torch.save([assignments(scores, settings, over_processes) for over_processes in (True, False)], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_sinkhorn_in_two_processes(tmp_path: Path) -> None:
    tensors, info = load_case("sigma", "sinkhorn_two_process")
    assert together(one_process, [(tmp_path,)] * 2) == [0, 0]
    told = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for rank, (reduced, _) in enumerate(told):
        assert_close(reduced, tensors[f"output.q_rank{rank}"], f"Q of process {rank}", info["suggested_tolerance"])
    alone = tensors["output.q_rank0_if_not_reduced"]
    assert_close(told[0][1], alone, "Q of process 0 alone", info["suggested_tolerance"])
    assert (told[0][0] - alone).abs().max() > 0.1


def test_finetune_encoder() -> None:
    tensors, info = load_case("sigma", "finetune_encoder")
    sizes, video = info["constructor"], tensors["input.video"]
    network = VideoClassifier(build_backbone(sizes), sizes["num_classes"], init_scale=sizes["init_scale"])
    load_strictly(network, from_official(part(tensors, "state.")), "case", may_miss=("backbone.norm.",))
    network.eval()
    seen: list[Tensor] = []
    network.backbone.blocks[0].register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    network.backbone.forward_features(video, norm=False)
    assert_close(seen[0], tensors["output.tokens_after_pos"], "tokens after positions")
    assert_close(seen[1], tensors["output.tokens_after_block0"], "tokens after the first block")
    assert_close(network.pool(video), tensors["output.features"], "features")
    assert_close(network(video), tensors["output.logits"], "logits")
    table = network.backbone.positions
    assert_close(table, tensors["output.pos_embed"].reshape(table.shape), "positions")


def test_tube_masks_have_the_official_counts_and_spread() -> None:
    path = PARITY_DIR / "sigma" / "tube_mask_stats.json"
    if not path.is_file():
        pytest.skip(f"no official statistics at {path}; set PARITY_DIR to the folder that holds them")
    stats = json.loads(path.read_text())
    for case in stats["cases"]:
        t, h, w = case["window"]
        grid = Grid(t, h, w, 2, 16)
        mask = TubeMask(case["mask_ratio"]).draw(stats["draws"], grid, torch.Generator().manual_seed(0))
        assert mask.targets.shape[1] == case["total_masked"]
        assert mask.visible.shape[1] == case["visible_total"]
        hidden = torch.zeros(stats["draws"], grid.tokens).scatter_(1, mask.targets, 1.0).unflatten(1, (t, h * w))
        assert (hidden == hidden[:, :1]).all() == case["same_mask_in_every_frame"]
        assert (hidden.sum(2) == case["masked_per_frame"]).all()
        assert hidden.mean().item() == pytest.approx(case["realised_ratio"], abs=1e-6)
        # The official generator's own spread over positions, with room for another sample of it.
        spread = case["per_position_max"] - case["per_position_min"]
        assert (hidden.mean(dim=(0, 1)) - case["realised_ratio"]).abs().max() < spread
        assert len(hidden[:, 0].unique(dim=0)) > 0.9 * case["distinct_masks"]

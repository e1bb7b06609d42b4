"""VJEPA: masks, rotary positions, momentum copy, padding, schedules of a run, clipping, and weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from main import main
from modules.backbones.vit.rotary import RotaryAttention, places_of, rotated_channels, rotation
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT, position_table
from modules.convert.command import convert
from modules.convert.load import describe_backbone
from modules.core.errors import SettingError
from modules.core.tokens import Grid
from modules.masks.base import Mask
from modules.masks.blocks import MultiBlockMask, draw_sets
from modules.methods.vjepa import LONG, SHORT, VJEPA, hidden_of
from modules.weights.files import read_weights
from modules.weights.names.vjepa import Codes, to_vjepa
from modules.weights.passport import read_passport
from tests.registry import FRAMES, METHODS, SIDE, rows_of, tiny_vjepa, video_batch

ROOT = Path(__file__).parents[2]
FULL = Grid(8, 14, 14, 2, 16)
TINY = Grid(2, 4, 4, 2, 8)
CLIP: dict[str, Any] = {"image_size": SIDE, "num_frames": FRAMES}
CODES: list[Codes] = ["sincos", "tiled_rotary"]
both_codes = pytest.mark.parametrize("codes", [CODES[0], pytest.param(CODES[1], marks=pytest.mark.slow)])


def rngs(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, row)) for row in range(count)]


def chosen(index: Tensor, valid: Tensor | None, tokens: int) -> Tensor:
    """bool [B, N] of indices with padding."""
    valid = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
    return torch.zeros(len(index), tokens, dtype=torch.bool).scatter_(1, index, valid)


# --- Masks ---


@pytest.mark.parametrize("unequal", ["cut", "pad"])
def test_predicted_tokens_are_disjoint_from_their_context(unequal: Any) -> None:
    for step in range(5):
        for mask in draw_sets([SHORT, LONG], FULL, unequal, step, rngs(6, step)):
            context = chosen(mask.visible, mask.valid_visible, FULL.tokens)
            predicted = chosen(mask.targets, mask.valid, FULL.tokens)
            assert not (context & predicted).any()
            assert context.any(1).all()
            assert predicted.any(1).all()
            if unequal == "pad":
                assert (context | predicted).all()
            else:
                assert mask.valid is None
                assert mask.valid_visible is None


def test_cutting_keeps_the_first_tokens_of_padding() -> None:
    cut, padded = (draw_sets([SHORT], FULL, unequal, 3, rngs(4))[0] for unequal in ("cut", "pad"))
    assert padded.valid is not None
    assert padded.valid_visible is not None
    assert torch.equal(cut.targets, padded.targets[:, : padded.valid.sum(1).min()])
    assert torch.equal(cut.visible, padded.visible[:, : padded.valid_visible.sum(1).min()])


def test_sizes_are_of_the_step_and_places_of_the_clip() -> None:
    few = MultiBlockMask(1, (0.15, 0.7), (0.3, 1.0))
    sizes = [few.block_size(step, FULL) for step in range(50)]
    assert len(set(sizes)) > 25
    rows = [few.draw(sizes[0], FULL, rng).reshape(FULL[:3]) for rng in rngs(8)]
    assert {int(row.sum()) for row in rows} == {int(np.prod(sizes[0]))}
    assert len({tuple(np.argwhere(row)[0]) for row in rows}) > 4


def test_masks_are_a_function_of_seed_epoch_place_and_row() -> None:
    prepare, batch = tiny_vjepa().preparation(), video_batch(4, clips=2)

    def prepared(epoch: int | None, place: int, rows: list[int]) -> Tensor:
        own = rows_of(batch, torch.tensor(rows))
        own.reading.place = place
        prepare(own, epoch)
        masks: list[Mask] = own.prepared
        return torch.stack([chosen(mask.targets, mask.valid, TINY.tokens) for mask in masks], 1)

    first = prepared(0, 0, [0, 1, 2, 3])
    assert first.shape == (8, 2, TINY.tokens)
    assert torch.equal(first[2:6], prepared(0, 0, [1, 2]))
    assert not torch.equal(first, prepared(1, 0, [0, 1, 2, 3]))
    assert not torch.equal(first, prepared(None, 0, [0, 1, 2, 3]))
    # Both clips of a video have their own blocks.
    assert not torch.equal(first[::2], first[1::2])


def test_context_can_be_limited() -> None:
    limited = MultiBlockMask(1, (0.2, 0.2), context_time=0.5, context_tokens=5)
    (mask,) = draw_sets([limited], FULL, "pad", 0, rngs(3))
    assert mask.visible.shape == (3, 5)
    assert (mask.visible < FULL.tokens // 2).all()
    late = chosen(mask.targets, mask.valid, FULL.tokens)[:, FULL.tokens // 2 :]
    assert late.all()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ({"area": (0.0, 0.5)}, "area"),
        ({"time": (0.5, 1.5)}, "time"),
        ({"aspect": (2.0, 1.0)}, "aspect"),
        ({"blocks": 0}, "blocks"),
        ({"context_time": 2.0}, "context_time"),
    ],
)
def test_wrong_blocks_are_refused(mask: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        MultiBlockMask(**mask)


def test_blocks_must_fit_the_clip() -> None:
    with pytest.raises(SettingError, match=r"leave no context .* set smaller model\.masks"):
        MultiBlockMask(2, (1.0, 1.0), aspect=(1.0, 1.0)).check(TINY)
    with pytest.raises(SettingError, match=r"cover no token .* set a larger one"):
        MultiBlockMask(2, (0.01, 0.01)).check(TINY)


# --- Rotary positions ---


def shifted_attention(tiled: bool) -> float:
    """Largest change of attention's output if all tokens are shifted along all axes."""
    torch.manual_seed(0)
    attention, tokens = RotaryAttention(36, 2).double(), torch.randn(1, TINY.tokens, 36, dtype=torch.float64)
    places = places_of(TINY, torch.arange(TINY.tokens))[None]
    with torch.no_grad():
        own, moved = (
            attention(tokens, None, rotation(where, 18, tiled).double()) for where in (places, places + torch.tensor([3, 1, 2]))
        )
    return float((own - moved).abs().max() / own.abs().max())


def test_only_the_corrected_rotation_depends_on_differences_alone() -> None:
    assert shifted_attention(tiled=False) < 1e-5
    assert shifted_attention(tiled=True) > 1e-3


def test_places_and_channels() -> None:
    assert places_of(TINY, torch.tensor([0, 5, 31])).tolist() == [[0, 0, 0], [0, 1, 1], [1, 3, 3]]
    assert [rotated_channels(width) for width in (64, 80, 16, 5)] == [20, 26, 4, 0]
    with pytest.raises(SettingError, match="too narrow for rotary positions"):
        VJEPAViT("micro", SIDE, FRAMES, 8, embed_dim=32, depth=1, num_heads=8, codes="rotary")


# --- A step ---


def test_the_momentum_copy_gets_no_gradient_and_shares_no_storage() -> None:
    method = tiny_vjepa()
    method.step(video_batch(), torch.Generator())["loss"].backward()
    assert all(value.grad is None and not value.requires_grad for value in method.backbone.parameters())
    own = {value.untyped_storage().data_ptr() for value in method.backbone.state_dict().values()}
    assert not own & {value.untyped_storage().data_ptr() for value in method.online.state_dict().values()}


def test_with_one_length_only_the_first_mask_token_is_used() -> None:
    method = tiny_vjepa("tiled_rotary", "length")
    predictor = replace(method.predictor_settings, tokens=2)
    method = VJEPA(method.online, method.masks, predictor, unequal="pad")
    method.step(video_batch(), torch.Generator())["loss"].backward()
    first, second = method.predictor.mask_tokens
    assert first.grad is not None
    assert first.grad.any()
    assert second.grad is None
    assert not second.requires_grad


@both_codes
def test_padding_changes_no_loss(codes: Codes) -> None:
    """The padded batch has the mean over all tokens of its clips alone, which need no padding."""
    method, batch = tiny_vjepa(codes).eval(), video_batch(3)
    method.preparation()(batch, 0)
    masks: list[Mask] = batch.prepared
    assert any(mask.valid is not None and not mask.valid.all() for mask in masks)
    joint = method.step(batch, torch.Generator())
    for number, mask in enumerate(masks):
        total, count = 0.0, 0
        for row in range(3):
            own = rows_of(batch, torch.tensor([row]))
            assert mask.valid is not None
            assert mask.valid_visible is not None
            pair = (mask.visible[row][mask.valid_visible[row]], mask.targets[row][mask.valid[row]])
            own.prepared = [Mask(pair[0][None], pair[1][None])] * 2
            loss = method.step(own, torch.Generator())["log"][f"loss_{number}"]
            total, count = total + float(loss) * len(pair[1]), count + len(pair[1])
        assert float(joint["log"][f"loss_{number}"]) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.slow
def test_the_copy_follows_once_per_optimiser_step_with_the_momentum_of_the_step_before(tmp_path: Path) -> None:
    """Rates, weight decays and momenta of a run of 6 steps in 2 epochs, on a schedule of 2.5."""
    case = next(one for one in METHODS if one.name == "V-JEPA")
    method = tiny_vjepa()
    optim = replace(method.optim_settings, warmup_epochs=0.5, warmup_lr=1e-4, min_lr=1e-5, horizon_epochs=2.5)
    method = VJEPA(method.online, method.masks, method.predictor_settings, unequal="pad", optim=optim)
    rates: list[float] = []
    decays: list[float] = []
    copies: list[float] = []

    class Look(lightning.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
            copies.append(pl_module.scheduled(pl_module.momentum, ahead=-1))

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            groups = trainer.optimizers[0].param_groups
            assert min(group["weight_decay"] for group in groups) == 0
            decays.append(max(group["weight_decay"] for group in groups))

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=tmp_path,
        callbacks=[Look()],
    )
    trainer.fit(method, datamodule=case.data(4, 12, 4))
    factor = optim.factor(0.5, 2.5, 1e-5 / 1e-3)
    assert rates == pytest.approx([1e-3 * factor((step + 1) / 3) for step in range(6)], rel=1e-12)
    assert decays == pytest.approx([0.04 * optim.decay_factor((step + 1) / 3, 2.5) for step in range(6)], rel=1e-12)
    assert copies == pytest.approx([0.998 + 0.002 * max(0, step - 1) / 3 / 2.5 for step in range(6)], rel=1e-12)


def test_gradients_of_encoder_and_predictor_are_clipped_apart_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny_vjepa()
    method._schedule = {"warmup": 1}
    for part in (method.online, method.predictor):
        for value in part.parameters():
            value.grad = torch.ones_like(value)
    optimiser = torch.optim.SGD(method.parameters(), lr=1)
    for epoch, expected in ((1, False), (2, True)):
        monkeypatch.setattr(VJEPA, "current_epoch", epoch)
        method.configure_gradient_clipping(optimiser, 10.0)
        norms = [
            torch.stack([value.grad.norm() for value in part.parameters() if value.grad is not None]).norm()
            for part in (method.online, method.predictor)
        ]
        assert all((float(norm) == pytest.approx(10, rel=1e-4)) == expected for norm in norms), (epoch, norms)


def test_pictures_hide_all_but_the_context() -> None:
    method = tiny_vjepa()
    batch = video_batch()
    method.preparation()(batch, 0)
    drawn = method.pictures(method.step(batch, torch.Generator()))
    assert set(drawn) == {"clip", "context_0", "similarity_0", "context_1", "similarity_1"}
    for number, mask in enumerate(batch.prepared):
        hidden = chosen(hidden_of(mask, TINY.tokens), None, TINY.tokens)
        assert torch.equal(~hidden, chosen(mask.visible, mask.valid_visible, TINY.tokens))
        cubes = drawn[f"context_{number}"].unflatten(3, (4, 8)).unflatten(2, (4, 8)).unflatten(1, (2, 2))
        same = (
            (cubes == drawn["clip"].unflatten(3, (4, 8)).unflatten(2, (4, 8)).unflatten(1, (2, 2))).all(7).all(6).all(4).all(2)
        )
        assert torch.equal(same.flatten(1), ~hidden)


# --- Weights ---


def official_file(method: VJEPA, path: Path) -> Path:
    """The method's weights as an official checkpoint, with further entries."""
    grid, kind = method.backbone.grid, method.backbone.code_kind
    widths = {"backbone": 32, "online": 32, "predictor": 16}
    tables = {} if kind == "tiled_rotary" else {part: position_table(kind, grid, grid, dim) for part, dim in widths.items()}
    entries: dict[str, Any] = to_vjepa(method.state_dict(), grid, tables)
    torch.save(entries | {"opt": {"state": {}}, "epoch": 3, "lr": 1e-3}, path)
    return path


def trained(codes: Codes) -> VJEPA:
    """A method whose two encoders differ."""
    torch.manual_seed(1)
    method = tiny_vjepa(codes).eval()
    for value in (*method.online.parameters(), *method.predictor.parameters()):
        torch.nn.init.normal_(value, std=0.1)
    return method


@both_codes
def test_official_checkpoints_are_read_and_written(codes: Codes, tmp_path: Path) -> None:
    method = trained(codes)
    source = official_file(method, tmp_path / "jepa.pt")
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "codes": codes}
    encoder = VJEPAViT("micro", SIDE, FRAMES, **sizes, checkpoint=str(source)).eval()
    video = torch.randn(2, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        expected = method.backbone(video)
        assert torch.equal(encoder(video), expected)
    start = tiny_vjepa(codes)
    again = VJEPA(start.online, start.masks, start.predictor_settings, init_from=str(source))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in method.state_dict().items())
    options: dict[str, Any] = {"heads": 2, "decoder_heads": 2} | (CLIP if codes == "tiled_rotary" else {})
    convert(source, tmp_path / "ours.safetensors", **options)
    ours = read_weights(tmp_path / "ours.safetensors", "--source")
    assert ours.keys() == method.state_dict().keys()
    assert all(torch.equal(value, ours[name]) for name, value in method.state_dict().items())
    passport = read_passport(tmp_path / "ours.safetensors")
    assert passport["architecture"]["codes"] == codes
    assert (passport["architecture"]["image_size"], passport["frames"]) == (SIDE, FRAMES)
    convert(tmp_path / "ours.safetensors", tmp_path / "back.pth", to="official")
    back, first = (read_weights(path, "--source") for path in (tmp_path / "back.pth", source))
    assert back.keys() == first.keys()
    assert all(torch.equal(value, first[name]) for name, value in back.items())
    found = describe_backbone(tmp_path / "ours.safetensors").network
    assert isinstance(found, VJEPAViT)
    with torch.no_grad():
        assert torch.equal(found(video), expected)
    with pytest.raises(SettingError, match="positions of V-JEPA"):
        convert(source, tmp_path / "folder", to="huggingface", **options)


def test_positions_of_another_kind_are_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    sincos, rotary = (official_file(trained(codes), tmp_path / f"{codes}.pt") for codes in CODES)
    for path, codes, said in (
        (rotary, "sincos", "no table of positions.*set it to tiled_rotary"),
        (sincos, "rotary", "a table of positions.*set it to sincos"),
        (sincos, "sincos_half", "a table of positions.*set it to sincos"),
    ):
        with pytest.raises(SettingError, match=said):
            VJEPAViT("micro", SIDE, FRAMES, **sizes, codes=codes, checkpoint=str(path))  # type: ignore[arg-type]
    ours = tmp_path / "ours.ckpt"
    torch.save({"state_dict": trained("tiled_rotary").state_dict()}, ours)
    with pytest.raises(SettingError, match=r"trained with positions of the kind tiled_rotary.*codes is rotary"):
        VJEPAViT("micro", SIDE, FRAMES, **sizes, codes="rotary", checkpoint=str(ours))
    with pytest.raises(SettingError, match="code_number"):
        VideoViT("micro", SIDE, FRAMES, **sizes, checkpoint=str(ours))


def test_tables_of_other_clips_tell_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = official_file(trained("sincos"), tmp_path / "jepa.pt")
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    longer = VJEPAViT("micro", SIDE, 2 * FRAMES, **sizes, checkpoint=str(source))
    assert longer.trained_grid == TINY
    assert longer.positions.shape == (1, 2 * TINY.tokens, 32)


@pytest.mark.slow
def test_an_encoder_alone_is_read(tmp_path: Path) -> None:
    method = trained("sincos")
    entries = to_vjepa(dict(method.state_dict()), method.backbone.grid, {"backbone": method.backbone.positions})
    torch.save({"encoder": entries["target_encoder"], "predictor": entries["predictor"]}, tmp_path / "hub.pt")
    torch.save(entries["target_encoder"], tmp_path / "bare.pt")
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    for name in ("hub.pt", "bare.pt"):
        encoder = VJEPAViT("micro", SIDE, FRAMES, **sizes, checkpoint=str(tmp_path / name))
        assert all(torch.equal(value, method.backbone.state_dict()[key]) for key, value in encoder.state_dict().items()), name
        convert(tmp_path / name, tmp_path / f"{name}.safetensors", part="backbone", heads=2)
        assert isinstance(describe_backbone(tmp_path / f"{name}.safetensors").network, VJEPAViT)


@pytest.mark.slow
def test_small_layer(tmp_path: Path) -> None:
    """configs/debug/small_vjepa.yaml on the recipe: it draws the sets of blocks and logs the rank of features."""
    layers = [f"--config={ROOT / 'configs' / name}" for name in ("vjepa.yaml", "debug/small_vjepa.yaml")]
    small = ["--data.train_videos=16", "--data.val_videos=8", "--data.batch_size=8", "--trainer.max_epochs=1"]
    small += ["--data.probe_samples=8", "--trainer.log_every_n_steps=1"]
    main(["fit", *layers, *small, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {f"0000001_{kind}_{number}.png" for kind in ("context", "similarity") for number in (0, 1)} <= names
    curves = EventAccumulator(str(tmp_path)).Reload()
    assert curves.Scalars("collapse/rankme")
    assert len(curves.Scalars("train/target_std")) == 2

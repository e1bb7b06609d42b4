"""LocoMotion: positives, invariance to padding and order of time, and optional losses."""

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.fake_cuda import step_cost
from datamodules.generated.motion import SyntheticMotion
from datamodules.loading.loader import ResumableLoader
from datamodules.settings import LoadSettings
from datamodules.video.sampling import ClipSettings
from modules.backbones.text.bert import TextSettings
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.language.tokenizers import TokenizerSettings
from modules.layers.drawing.clips import caption_band
from modules.losses.video_text import TextContrastSettings
from modules.methods.locomotion import LocoMotion, LossSettings
from modules.motion.appearance import ObjectBank
from modules.scenes.captioned import CaptionSettings
from modules.scenes.captioned_paste import CaptionedPasteSettings
from tests.callbacks.runs import make_trainer
from tests.methods.test_common import fit
from tests.registry import FRAMES, METHODS, SIDE, tiny_locomotion, video_batch, with_sentences

CAPTIONS = ["a red arrow moves up", "a red arrow rises", "a red arrow moves up", "a flag falls and then slides to the left"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given(**settings: object) -> LocoMotion:
    torch.manual_seed(0)
    backbone = BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=1, num_heads=2, drop_path=0)
    text = TextSettings(32, 2, 1, 2, mlp_ratio=2, positions=16, dropout=0)
    return LocoMotion(
        backbone, text, TokenizerSettings(max_tokens=16), paste=None, contrast=TextContrastSettings(8), **settings
    )


@pytest.mark.parametrize(
    ("positives", "same"), [("instance", []), ("caption", [(0, 2)]), ("signature", [(0, 1), (0, 2), (1, 2)])]
)
def test_positives(positives: str, same: list[tuple[int, int]]) -> None:
    batch = with_sentences(video_batch(4), CAPTIONS)
    batch.extra["signature"] = torch.tensor([7, 7, 7, 8])
    clip, sentences = given(positives=positives).pair(batch, generator())
    assert sentences.texts == CAPTIONS
    assert [(i, j) for i in range(4) for j in range(i + 1, 4) if sentences.ids[i] == sentences.ids[j]] == same
    assert torch.equal(clip, batch.stream("video").data[:, 0])


def test_captions_are_needed_where_nothing_is_pasted(tmp_path: Path) -> None:
    case = next(case for case in METHODS if case.name == "LocoMotion")
    method = given()
    method.step = None  # type: ignore[assignment, method-assign]
    with pytest.raises(SettingError, match=r"stream text, .* stream\(s\) video; .* do not set model\.paste to null"):
        make_trainer(tmp_path, []).fit(method, datamodule=case.data(4, 8, 4))
    with pytest.raises(SettingError, match="reads the stream text"):
        given().step(video_batch(4), generator())


def test_objects_are_pasted_and_told() -> None:
    output, batch = tiny_locomotion().step(video_batch(4), generator()), video_batch(4)
    assert all(len(text.split()) > 1 for text in output["show"]["texts"])
    assert not torch.equal(output["show"]["clip"], batch.stream("video").data[:, 0])
    again = tiny_locomotion().step(video_batch(4), generator(1))
    assert again["show"]["texts"] != output["show"]["texts"]


def test_padding_does_not_change_a_sentence() -> None:
    method = given().eval()
    ids = method.tokenizer(CAPTIONS)
    there = ids != method.tokenizer.pad
    assert not there.all()
    features = method.text.encode(ids, there)[:, 0]
    other = torch.where(there, ids, 9)
    assert torch.allclose(method.text.encode(other, there)[:, 0], features, atol=1e-6)
    video = torch.randn(4, 5, 32, generator=generator())
    fused = [method.text.fuse(method.text.encode(words, there), there, video)[:, 0] for words in (ids, other)]
    assert torch.allclose(*fused, atol=1e-6)


def test_a_new_tower_sees_frame_by_frame() -> None:
    backbone = given().backbone.eval()
    still = torch.randn(2, 3, 1, SIDE, SIDE, generator=generator())
    alone = backbone.encode(still)[1]
    assert torch.allclose(backbone.encode(still.expand(-1, -1, FRAMES, -1, -1))[1], alone.expand(-1, FRAMES, -1), atol=1e-5)
    torch.nn.init.ones_(backbone.temporal[0].scale)
    moving = torch.randn(2, 3, FRAMES, SIDE, SIDE, generator=generator())
    turned = backbone.encode(moving.flip(2))[1].flip(1)
    assert torch.allclose(backbone.encode(moving)[1], turned, atol=1e-5)
    torch.nn.init.normal_(backbone.frame_positions, generator=generator())
    assert not torch.allclose(backbone.encode(moving)[1], backbone.encode(moving.flip(2))[1].flip(1), atol=1e-2)


def test_temperature_stays_in_its_range() -> None:
    method = given()
    batch = with_sentences(video_batch(4), CAPTIONS)
    for wild, kept in ((-5.0, 0.001), (90.0, 0.5)):
        torch.nn.init.constant_(method.temperature, wild)
        assert float(method.step(batch, generator())["log"]["temperature"]) == pytest.approx(kept)


def test_temperature_stays_in_its_range_after_a_wild_step() -> None:
    found = []
    for uphill in (False, True):
        method = given()
        optimiser = torch.optim.SGD([method.temperature], lr=1e9, maximize=uphill)

        def loss(method: LocoMotion = method) -> torch.Tensor:
            value = method.step(with_sentences(video_batch(4), CAPTIONS), generator())["loss"]
            value.backward()
            return value

        method.optimizer_step(0, 0, optimiser, loss)
        found.append(float(method.temperature.detach()))
    assert sorted(found) == pytest.approx([0.001, 0.5])


def test_half_precision_gives_nearly_the_same_losses() -> None:
    batch = with_sentences(video_batch(4), CAPTIONS)
    full = given().eval().step(batch, generator())
    with torch.autocast("cpu", torch.bfloat16):
        half = given().eval().step(batch, generator())
    assert half["loss"].dtype == torch.float32
    half["loss"].backward()
    for name in ("loss_contrast", "loss_match", "loss_words"):
        assert float(half["log"][name]) == pytest.approx(float(full["log"][name]), rel=0.02)


def test_gradients_are_clipped_in_half_precision(tmp_path: Path) -> None:
    case = next(case for case in METHODS if case.name == "LocoMotion")
    method = tiny_locomotion()
    start = {name: value.clone() for name, value in method.state_dict().items()}
    fit(case, method, tmp_path, epochs=1, precision="bf16-mixed", gradient_clip_val=1.0)
    moved = [name for name, value in method.state_dict().items() if not torch.equal(value, start[name])]
    assert len(moved) > 0.8 * len(start)


def test_losses_can_be_left_out() -> None:
    method = given(losses=LossSettings(0, 0))
    output = method.step(with_sentences(video_batch(4), CAPTIONS), generator())
    assert torch.equal(output["loss"].detach(), output["log"]["loss_contrast"])
    output["loss"].backward()
    assert all(value.grad is not None for value in method.parameters() if value.requires_grad)
    assert not method.match_head.weight.requires_grad


def test_captions_are_drawn() -> None:
    band = caption_band(CAPTIONS[3], 224)
    assert band.shape == (48, 224, 3)
    assert not torch.equal(band, caption_band(CAPTIONS[0], 224))


def test_wrong_settings_are_told() -> None:
    with pytest.raises(SettingError, match=r"max_tokens 32 is more than model\.text\.positions 16"):
        LocoMotion(given().backbone, TextSettings(32, 2, 1, 2, positions=16))
    with pytest.raises(SettingError, match=r"fusion_depth 2 must be at least 1 and below model\.text\.depth 2"):
        LocoMotion(given().backbone, TextSettings(32, 2, 2, 2))
    with pytest.raises(SettingError, match=r"model\.losses\.masked_words is 1\.5; it must be between 0 and 1"):
        LossSettings(masked_words=1.5)


def prepared(method: LocoMotion, batch_size: int, workers: int = 0) -> SyntheticMotion:
    """Two clips of each of 12 videos, and the method's preparation of them."""
    clip = ClipSettings(frames=FRAMES, size=SIDE, clips=2)
    data = SyntheticMotion(clip, batch_size, LoadSettings(workers), train_videos=12, val_videos=6)
    data.preparation = method.preparation()
    data.setup("fit")
    return data


def by_row(loader: ResumableLoader) -> dict[int, tuple[list[str], list[float]]]:
    """Sentences and paths of the two clips of each video."""
    found = {}
    for batch in loader:
        sentences, count = batch.prepared, len(batch.index)
        places = sentences.plan.record.centre.flatten(1).unflatten(0, (count, 2)).tolist()
        for place, row in enumerate(batch.index.tolist()):
            found[row] = (sentences.texts[2 * place : 2 * place + 2], places[place])
    return found


def test_captions_are_a_function_of_seed_epoch_and_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written by the loader: the same with another batch size, in workers, and when a step is repeated."""
    method = tiny_locomotion()
    data = prepared(method, 4)
    loader = data.train_dataloader()
    first, again = by_row(loader), by_row(loader)
    assert len(first) == 12
    assert first == again
    assert by_row(prepared(method, 6, workers=1).train_dataloader()) == first
    assert all(texts[0] != texts[1] for texts, _ in first.values())
    assert loader.read(0, [7, 2]).prepared.texts == first[7][0] + first[2][0]
    loader.batches.sampler.set_epoch(1)
    later = by_row(loader)
    assert not any(later[row][1] == first[row][1] for row in first)

    validation = data.val_dataloader()
    before = by_row(validation)
    validation.batches.sampler.set_epoch(1)
    assert by_row(validation) == before
    assert not any(before[row][1] == first[row][1] for row in before)
    assert next(iter(data.probe_dataloader())).prepared is None
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    other = by_row(prepared(method, 4).train_dataloader())
    assert not any(other[row][1] == first[row][1] for row in first)


def test_steps_of_a_run_take_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, steps = tiny_locomotion(), []
    step = LocoMotion.step

    def noted(self: LocoMotion, batch: Batch, generator: torch.Generator) -> StepOutput:
        writer, self.writer = self.writer, None  # type: ignore[assignment]
        output = step(self, batch, generator)
        self.writer = writer
        steps.append(output["show"]["texts"])
        assert output["show"]["texts"] == batch.prepared.texts
        return output

    monkeypatch.setattr(LocoMotion, "step", noted)
    data = SyntheticMotion(ClipSettings(frames=FRAMES, size=SIDE), 4, train_videos=8, val_videos=4)
    trainer = make_trainer(tmp_path, [], epochs=1)
    trainer.fit(method, datamodule=data)
    assert len(steps) >= 3
    # Nothing of another method remains.
    make_trainer(tmp_path, []).validate(METHODS[0].build(), datamodule=data)
    assert data.preparation is None


def test_workers_are_sent_no_weights_and_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "arrow").mkdir()
    Image.new("RGBA", (8, 8)).save(tmp_path / "arrow" / "0.png")
    objects = ObjectBank(str(tmp_path), side=512)
    captions = CaptionSettings(primitives=("T",))
    method = tiny_locomotion()
    method = LocoMotion(method.backbone, TextSettings(32, 3, 1, 2), paste=CaptionedPasteSettings(objects, captions))
    sent = pickle.dumps(method.preparation())
    assert len(sent) < 100_000
    batch, other = video_batch(2), video_batch(2)
    method.preparation()(batch, 3)
    pickle.loads(sent)(other, 3)
    assert batch.prepared.texts == other.prepared.texts


@pytest.mark.parametrize("pastes", [True, False])
def test_a_step_reads_nothing_from_the_device_and_copies_nothing_to_it(pastes: bool) -> None:
    batch = video_batch(4) if pastes else with_sentences(video_batch(4), CAPTIONS)
    cost = step_cost(tiny_locomotion() if pastes else given(), batch)
    assert cost.waits == cost.copies == []

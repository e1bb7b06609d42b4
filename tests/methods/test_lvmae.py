"""LVMAE: masks, random parts and repetition, the batched step against a loop over samples, and captions of hidden segments."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.backbones.sequence.transformer import SequenceTransformer
from modules.backbones.text.clip_text import ClipTextSettings
from modules.backbones.vit.decoder import DecoderSettings
from modules.core.batch import Batch, Stream
from modules.core.errors import SettingError
from modules.masks.base import Mask
from modules.masks.sequences import ImportantSteps, RandomSteps, SequenceMask, neighbour_similarity
from modules.methods.lvmae import LVMAE, Aligned, CaptionSettings, encode_sentences, projection_of
from modules.training.optim import AdamWSettings

WIDTH = 16
LENGTHS = (2, 7, 256)
pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(mask: SequenceMask, longest: int = 256, **settings: Any) -> LVMAE:
    torch.manual_seed(0)
    backbone = SequenceTransformer(WIDTH, 2, 2, max_steps=longest)
    return LVMAE(backbone, mask, DecoderSettings(1), optim=AdamWSettings(warmup_epochs=0), **settings)


def sequences(lengths: tuple[int, ...], seed: int = 0, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Random sequences, padded with 0, and which of their steps are there."""
    data = torch.randn(len(lengths), max(lengths), width, generator=generator(seed))
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return data * valid[..., None], valid


def batch_of(data: Tensor, lengths: tuple[int, ...]) -> Batch:
    index = torch.arange(len(data))
    return Batch(index, index, {"feature": Stream("feature", data[:, None], length=torch.tensor(lengths))})


def shown_of(indices: Tensor, valid: Tensor | None, steps: int) -> list[set[int]]:
    assert valid is not None
    return [{int(i) for i, there in zip(row, flags, strict=True) if there} for row, flags in zip(indices, valid, strict=True)]


# --- Masks ---


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("kind", [RandomSteps, ImportantSteps])
def test_numbers_are_exact_and_nothing_is_both(kind: type[SequenceMask], ratio: float) -> None:
    lengths = tuple(range(1, 41))
    data, valid = sequences(lengths)
    mask = kind(ratio).draw(data, valid, kind(ratio).counts(64), generator())
    for length, visible, hidden in zip(
        lengths,
        shown_of(mask.visible, mask.valid_visible, 40),
        shown_of(mask.targets, mask.valid, 40),
        strict=True,
    ):
        assert len(visible) == max(1, int(length * (1 - ratio)))
        assert visible | hidden == set(range(length))
        assert not visible & hidden


def test_random_masks_are_uniform_and_do_not_depend_on_padding() -> None:
    data, valid = sequences((8,) * 2000)
    mask = RandomSteps(0.5)
    drawn = mask.draw(data, valid, mask.counts(16), generator())
    often = torch.zeros(8).scatter_add(0, drawn.visible.flatten(), torch.ones(8000)) / 2000
    assert often.sub(0.5).abs().max() < 0.05
    longer, still = F.pad(data, (0, 0, 0, 5)), F.pad(valid, (0, 5))
    again = mask.draw(longer, still, mask.counts(16), generator())
    assert shown_of(again.visible, again.valid_visible, 13) == shown_of(drawn.visible, drawn.valid_visible, 8)


def test_important_steps_are_the_changes() -> None:
    """Constant but for one jump: the first step (different by definition) and the jump come first, then the earliest."""
    data = torch.zeros(3, 12, WIDTH)
    for row, jump in enumerate((1, 6, 11)):
        data[row, :jump, 0] = data[row, jump:, 1] = 1
    mask = ImportantSteps(0.8)
    valid = torch.ones(3, 12, dtype=torch.bool)
    drawn = mask.draw(data, valid, mask.counts(12), generator())
    assert shown_of(drawn.visible, drawn.valid_visible, 12) == [{0, 1}, {0, 6}, {0, 11}]
    three = ImportantSteps(0.75).draw(data, valid, ImportantSteps(0.75).counts(12), generator(1))
    assert shown_of(three.visible, three.valid_visible, 12) == [{0, 1, 2}, {0, 1, 6}, {0, 1, 11}]
    # Without negative similarities, the first step is always visible.
    positive, valid = sequences((5, 40, 256))
    drawn = mask.draw(positive.abs(), valid, mask.counts(256), generator())
    assert (neighbour_similarity(positive.abs()) >= 0).all()
    assert all(0 in row for row in shown_of(drawn.visible, drawn.valid_visible, 256))


@pytest.mark.parametrize("ratio", [0, 1, -0.1])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(SettingError, match=r"model\.mask\.ratio is .*between 0 and 1"):
        RandomSteps(ratio)


# --- The step ---


def slow_step(method: LVMAE, data: Tensor, lengths: tuple[int, ...], mask: Mask) -> tuple[Tensor, list[Tensor]]:
    """Each sequence alone, without padding, as in the official code: loss and class token."""
    errors, tokens = [], []
    visible_rows, hidden_rows = (
        shown_of(mask.visible, mask.valid_visible, data.shape[1]),
        shown_of(mask.targets, mask.valid, data.shape[1]),
    )
    backbone, decoder = method.backbone, method.decoder
    for row, length in enumerate(lengths):
        sequence = F.normalize(data[row, :length], dim=1)
        visible, hidden = sorted(visible_rows[row]), sorted(hidden_rows[row])
        hidden_state = torch.cat([backbone.cls_token[0], sequence[visible] + backbone.positions[0, 1:][visible]])[None]
        for block in backbone.blocks:
            hidden_state = block(hidden_state)
        encoded = backbone.norm(hidden_state)
        tokens.append(encoded[0, 0])
        embedded = decoder.embed(encoded)[0]
        full = decoder.mask_token[0].repeat(length, 1)
        for place, step in enumerate(visible):
            full[step] = embedded[1 + place]
        state = (torch.cat([embedded[:1], full]) + decoder.positions[0, : 1 + length])[None]
        for block in decoder.blocks:
            state = block(state)
        predicted = decoder.head(decoder.norm(state))[0, 1:]
        errors += [(predicted[step] - sequence[step]).square().mean() for step in hidden]
    return torch.stack(errors).mean(), tokens


@pytest.mark.parametrize("kind", [RandomSteps, ImportantSteps])
def test_the_batch_equals_a_loop_over_its_sequences(kind: type[SequenceMask]) -> None:
    method = build(kind(0.5)).eval()
    # Short sequences are repeated in a step, so their three copies are given to the loop.
    data, _ = sequences(LENGTHS)
    output = method.step(batch_of(data, LENGTHS), generator())
    show = output["show"]
    lengths = tuple(show["valid"].sum(1).tolist())
    assert lengths == (6, 7, 256)
    loss, tokens = slow_step(method, show["feature"], lengths, show["mask"])
    assert float(output["loss"].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    mask = show["mask"]
    encoded = method.backbone.encode(show["feature"], mask.valid_visible, mask.visible)
    assert torch.allclose(encoded[:, 0], torch.stack(tokens), atol=1e-5)


def test_padding_changes_nothing() -> None:
    """Neither the loss nor the class token depend on what is behind the end, or on how much is."""
    method = build(RandomSteps(0.5)).eval()
    data, _ = sequences((5, 9))

    def loss(given: Tensor) -> float:
        return float(method.step(batch_of(given, (5, 9)), generator())["loss"].detach())

    expected = pytest.approx(loss(data), rel=1e-5)
    longer = F.pad(data, (0, 0, 0, 6))
    assert loss(longer) == expected
    longer[0, 5:], longer[1, 9:] = 3.0, -2.0
    assert loss(longer) == expected
    feature = method.backbone(method.normalise(data))
    assert torch.allclose(feature, method.backbone(method.normalise(F.pad(data, (0, 0, 0, 30)))), atol=1e-6)
    alone = method.backbone(method.normalise(data[:1, :5]))
    assert torch.allclose(feature[:1], alone, atol=1e-6)
    tokens = method.backbone.forward_features(method.normalise(data))
    assert not tokens[0, 6:].any()
    assert torch.allclose(feature[0], tokens[0, 1:6].mean(0), atol=1e-6)


def test_random_parts_of_sequences() -> None:
    method = build(RandomSteps(0.5), 20, shortest=6)
    lengths = torch.tensor([30, 12, 6, 4, 1] * 200)
    data = torch.arange(30.0).expand(1000, -1)[..., None].expand(-1, -1, WIDTH)
    cut, length = method.train().cut(data, lengths, generator())
    assert cut.shape[1] == 20
    for row, steps, own in zip(cut[..., 0], length.tolist(), lengths.tolist(), strict=True):
        part = row[:steps].tolist()
        if own < 5:
            assert part == list(range(own)) * 3
        else:
            assert min(own, 6) <= steps <= min(own, 20)
            assert part == list(range(int(part[0]), int(part[0]) + steps))
            assert part[-1] < own
        assert not row[steps:].any()
    drawn = length[lengths == 30]
    assert set(drawn.tolist()) == set(range(6, 21))
    starts = cut[lengths == 12][:, 0, 0]
    assert set(starts.tolist()) == set(range(7))
    first, unchanged = method.eval().cut(data, lengths, generator())
    assert unchanged.tolist()[:5] == [20, 12, 6, 12, 3]
    assert first[0, :, 0].tolist() == list(range(20))


def test_lengths_and_views_are_those_of_the_stream() -> None:
    method = build(RandomSteps(0.5)).eval()
    data, _ = sequences((6, 8))
    pairs = torch.stack([data, data.flip(0)], 1)
    index = torch.arange(2)
    both = Batch(index, index, {"feature": Stream("feature", pairs, length=torch.tensor([[6, 8], [8, 6]]))})
    assert method.sequences(both)[1].tolist() == [6, 8, 8, 6]
    per_sample = Batch(index, index, {"feature": Stream("feature", pairs, length=torch.tensor([8, 6]))})
    assert method.sequences(per_sample)[1].tolist() == [8, 8, 6, 6]
    none = Batch(index, index, {"feature": Stream("feature", pairs)})
    assert method.sequences(none)[1].tolist() == [8] * 4
    with pytest.raises(SettingError, match=r"one feature per recording; .*embed --every"):
        method.sequences(Batch(index, index, {"feature": Stream("feature", pairs[:, :, 0])}))
    with pytest.raises(SettingError, match=r"features of width 16, but the data have 8; set model\.backbone\.embed_dim"):
        method.step(Batch(index, index, {"feature": Stream("feature", pairs[..., :8])}), generator())


def test_another_width_of_features_is_projected() -> None:
    torch.manual_seed(0)
    method = LVMAE(SequenceTransformer(WIDTH, 1, 2, max_steps=20, input_dim=24), RandomSteps(), DecoderSettings(1))
    data, _ = sequences((6, 8), width=24)
    output = method.step(batch_of(data, (6, 8)), generator())
    assert output["show"]["prediction"].shape[2] == 24
    output["loss"].backward()
    assert method.backbone.project.weight.grad.any()


def test_longer_sequences_than_in_training_get_further_positions(capsys: pytest.CaptureFixture[str]) -> None:
    short, long = (SequenceTransformer(WIDTH, 1, 2, max_steps=steps) for steps in (8, 30))
    long.load_state_dict(short.state_dict())
    data, _ = sequences((20, 30))
    assert torch.equal(short(short.preprocess(data)), long(long.preprocess(data)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 15, "num_heads": 3}, "must be even"),
        ({"embed_dim": 16, "num_heads": 3}, "multiple of model.backbone.num_heads 3"),
        ({"embed_dim": 16, "num_heads": 2, "max_steps": 0}, "max_steps is 0"),
    ],
)
def test_impossible_sizes_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SequenceTransformer(depth=1, **settings)


# --- Captions ---


THINGS = torch.eye(4, WIDTH)
"""Features of four sentences, and of segments that show what they say."""


def make_it_average(method: LVMAE) -> None:
    """Weights with which every hidden segment is predicted as the mean of the visible ones."""
    identity = torch.eye(WIDTH)
    backbone, decoder = method.backbone, method.decoder
    with torch.no_grad():
        for name, value in method.named_parameters():
            value.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        backbone.positions.zero_()
        decoder.positions.zero_()
        # Without positions and with zero queries and keys, attention is uniform over all tokens; mask tokens are 0.
        decoder.blocks[0].attn.qkv.weight[2 * WIDTH :] = identity
        for layer in (decoder.embed, decoder.blocks[0].attn.proj, decoder.head):
            layer.weight.copy_(identity)


def test_the_sentence_of_a_hidden_segment_wins(tmp_path: Path) -> None:
    """Each video shows one of four things, under noise, so hidden segments show what visible ones do."""
    sentences = ["a dog runs", "a car turns", "a man sings", "a wave breaks"]
    (tmp_path / "captions.txt").write_text("\n".join(sentences))
    captions = CaptionSettings(str(tmp_path / "captions.txt"), ClipTextSettings(checkpoint="clip.pt"))
    torch.manual_seed(0)
    backbone = SequenceTransformer(WIDTH, 1, 2, max_steps=12)
    method = LVMAE(backbone, RandomSteps(0.5), DecoderSettings(1, WIDTH, 1), captions=captions).eval()
    make_it_average(method)
    label = torch.arange(16) % 4
    video = THINGS[label][:, None] + 0.1 * torch.randn(16, 10, WIDTH, generator=generator())
    # The last one ends early.
    video[15, 7:] = 0
    method.aligned = Aligned(THINGS, torch.eye(WIDTH))
    with torch.no_grad():
        found = method.predict_step(batch_of(video, (10,) * 15 + (7,)), 0)
    answers = method.answers([f"{number}.mp4" for number in range(16)], found.value)
    assert answers is not None
    table = answers.tables["segments"]
    assert len(table["path"]) == 15 * 5 + 4
    for path, predicted, cosine in zip(table["path"], table["predicted"], table["cosine"], strict=True):
        assert predicted == sentences[int(path.removesuffix(".mp4")) % 4]
        assert 0.5 < cosine <= 1
    assert answers.columns["agreement"] == [1.0] * 16
    # With the sentences' features in another order, another one wins.
    method.aligned = Aligned(THINGS.roll(1, 0), torch.eye(WIDTH))
    with torch.no_grad():
        other = method.answers(["a.mp4"], method.predict_step(batch_of(video[:1], (10,)), 0).value)
    assert other is not None
    assert set(other.tables["segments"]["predicted"]) == {sentences[1]}


def test_captions_need_a_file_and_a_tower(tmp_path: Path) -> None:
    settings = ClipTextSettings()
    with pytest.raises(SettingError, match=r"model\.captions\.file is .*cannot be read"):
        build(RandomSteps(), captions=CaptionSettings(str(tmp_path / "none.txt"), settings))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SettingError, match="is empty; write one sentence per line"):
        build(RandomSteps(), captions=CaptionSettings(str(tmp_path / "empty.txt"), settings))
    (tmp_path / "one.txt").write_text("a dog runs\n")
    captions = CaptionSettings(str(tmp_path / "one.txt"), settings)
    with pytest.raises(SettingError, match=r"captions\.clip\.checkpoint is null"):
        encode_sentences(captions.clip, ["a dog runs"], 512, torch.device("cpu"))
    image = torch.randn(768, 512)
    assert projection_of(image, 512, 768) is image
    assert torch.equal(projection_of(image, 512, 512), torch.eye(512))
    with pytest.raises(SettingError, match=r"Features have 384 values, but those of CLIP's image tower .* 768; pass the CLIP"):
        projection_of(image, 512, 384)


def test_pictures_mark_what_was_hidden() -> None:
    method = build(RandomSteps(0.5), 20).eval()
    data, _ = sequences((8, 20))
    output = method.step(batch_of(data, (8, 20)), generator())
    pictures = method.pictures(output)
    assert pictures.keys() == method.picture_notes().keys() == {"segments", "predicted_segments", "cosines"}
    assert pictures["segments"].shape == (2, 1, 232, 232, 3)
    hidden = shown_of(output["show"]["mask"].targets, output["show"]["mask"].valid, 20)[1]
    orange = (pictures["segments"][1, 0, 2, 8:] == torch.tensor([213, 94, 0])).all(1)
    middles = [round((step + 0.5) / 20 * 224 - 0.5) for step in range(20)]
    assert {step for step, column in enumerate(middles) if orange[column]} == hidden

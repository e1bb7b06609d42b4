"""One page shows all streams of a sample, each at its time; missing parts are hatched."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from modules.core.batch import Batch, Stream, Text
from modules.core.errors import SettingError
from modules.layers.drawing.sheet import CURSOR, GAP, MARGIN, STRIP, TILE, film, sheet
from modules.layers.drawing.skeletons import draw_skeletons
from modules.layers.drawing.streams import HATCH, OBJECT_COLOURS

FRAMES, SIDE, SAMPLES, VIEWS = 5, 32, 2, 2
START, END = 2.0, 4.0
"""Of the clip, in seconds."""
LEFT = GAP + MARGIN
"""Where frames and what goes on over time begin."""
WIDTH = 6 * (TILE + GAP) - GAP


def streams(height: int = SIDE, width: int = SIDE) -> dict[str, Stream | Text]:
    """One of each kind."""
    g = torch.Generator().manual_seed(0)
    shape = (SAMPLES, VIEWS)
    pixels = (*shape, FRAMES, height, width)
    made = {
        "feature": Stream("feature", torch.randn(*shape, 3, 7, generator=g)),
        "audio": Stream("audio", torch.rand(*shape, 2, 4001, generator=g) - 0.5),
        "signal": Stream("signal", torch.randn(*shape, 6, 41, generator=g)),
        "video": Stream("video", torch.randint(0, 256, (*pixels, 3), generator=g, dtype=torch.uint8)),
        "flow": Stream("flow", torch.randn(*pixels, 2, generator=g).half()),
        "depth": Stream("depth", torch.randint(0, 5000, (*pixels, 1), generator=g).to(torch.uint16)),
        "mask": Stream("mask", torch.rand(*pixels, 2, generator=g) > 0.5),
        "track": Stream("track", torch.tensor([4.0, 6, 20, 25]).expand(*shape, FRAMES, 3, 4)),
        "skeleton": Stream("skeleton", torch.randn(*shape, 3, FRAMES, 25, 2, generator=g)),
        "picture": Stream("picture", torch.randint(0, 256, (*shape, height, width, 3), generator=g, dtype=torch.uint8)),
    }
    time = torch.tensor([START, END]).expand(*shape, 2)
    timed: dict[str, Stream | Text] = {name: replace(one, time=time) for name, one in made.items()}
    return timed | {"text": Text([["A disc turns left."], ["It stops.", "It ends."]])}


def batch_of(content: dict[str, Stream | Text]) -> Batch:
    return Batch(torch.tensor([7, 8]), torch.tensor([3, -1]), content)


def only(name: str, **changes: object) -> Batch:
    """A batch of one stream with other fields."""
    stream = streams()[name]
    return batch_of({name: replace(stream, **changes)})  # type: ignore[arg-type]


def hatched(picture: Tensor) -> Tensor:
    """bool [H, W], greys that only hatches have."""
    return sum(((picture == grey).all(-1) for grey in HATCH), start=torch.zeros(picture.shape[:-1], dtype=torch.bool))


def test_all_kinds_are_on_one_page() -> None:
    batch = batch_of(streams())
    page = sheet(batch, row=1, view=1)
    assert page.dtype == torch.uint8
    assert page.shape[1] == MARGIN + WIDTH + 2 * GAP
    moving = film(batch, row=1, view=1)
    assert moving.shape[::3] == (FRAMES, 3)
    # Seven rows of frames, five strips, and no more than that with titles, moments and sentences.
    assert 7 * TILE + 5 * STRIP < page.shape[0] < 7 * (TILE + GAP) + 5 * (STRIP + GAP) + 120
    # Views and samples differ, and no page is changed by drawing another.
    assert not torch.equal(page, sheet(batch, row=1, view=0))
    assert torch.equal(page, sheet(batch, row=1, view=1))


@pytest.mark.parametrize("name", [*streams()])
def test_any_stream_is_enough(name: str) -> None:
    batch = batch_of({name: streams()[name]})
    page = sheet(batch)
    alone = sheet(batch_of({}))
    assert page.shape[0] > alone.shape[0]
    assert (page != 255).any(-1).sum() > (alone != 255).any(-1).sum() + 100
    moving = film(batch, frames=4)
    assert len(moving) == (1 if name in ("picture", "text") else 4)


@pytest.mark.parametrize(("height", "width"), [(7, 3), (131, 64), (45, 300), (1, 1)])
def test_odd_sizes(height: int, width: int) -> None:
    batch = batch_of(streams(height, width))
    assert sheet(batch, columns=3).shape[1] == film(batch).shape[2]
    assert sheet(batch, columns=9).shape[1] == MARGIN + 9 * (TILE + GAP) + GAP


def test_frames_are_those_of_their_moments() -> None:
    batch = only("video")
    video = batch.stream("video").data[0, 0]
    tiles = video.repeat_interleave(TILE // SIDE, 1).repeat_interleave(TILE // SIDE, 2)
    page, moving = sheet(batch), film(batch)
    assert len(moving) == FRAMES
    for frame, tile in enumerate(tiles):
        left = LEFT + frame * (TILE + GAP)
        assert torch.equal(page[-TILE - GAP : -GAP, left : left + TILE], tile)
        assert torch.equal(moving[frame, -TILE - GAP : -GAP, GAP : GAP + TILE], tile)
    # White behind the last of five frames, where a sheet has room for six.
    assert (page[-TILE - GAP :, LEFT + FRAMES * (TILE + GAP) :] == 255).all()


def test_evenly_picked_moments() -> None:
    video = torch.arange(60, dtype=torch.uint8).view(1, 1, 60, 1, 1, 1).expand(1, 1, 60, 4, 4, 3)
    batch = Batch(torch.tensor([0]), torch.tensor([0]), {"video": Stream("video", video)})
    assert [int(frame[-20, 20, 0]) for frame in film(batch, frames=3)] == [0, 30, 59]
    page = sheet(batch, columns=3)
    assert [int(page[-20, LEFT + 20 + k * (TILE + GAP), 0]) for k in range(3)] == [0, 30, 59]


def test_the_cursor_moves_with_the_frame() -> None:
    content = streams()
    moving = film(batch_of({name: content[name] for name in ("video", "audio")}))
    width = 4 * (TILE + GAP) - GAP
    for frame, page in enumerate(moving):
        line = (page == torch.tensor(CURSOR, dtype=torch.uint8)).all(-1).sum(0)
        assert int(line.argmax()) == LEFT + round(frame / (FRAMES - 1) * (width - 1))
        assert line.max() >= 2 * STRIP
        assert (line > STRIP).sum() == 1


def test_sound_of_a_whole_file_is_longer_than_the_clip() -> None:
    video, audio = streams()["video"], streams()["audio"]
    assert isinstance(audio, Stream)
    longer = replace(audio, time=torch.tensor([0.0, 10.0]).expand(SAMPLES, VIEWS, 2))
    page = sheet(batch_of({"video": video, "audio": longer}))
    line = (page == torch.tensor(CURSOR, dtype=torch.uint8)).all(-1).sum(0)
    moments = [START + (END - START) * frame / (FRAMES - 1) for frame in range(FRAMES)]
    assert (line > STRIP).nonzero().flatten().tolist() == [LEFT + round(moment / 10 * (WIDTH - 1)) for moment in moments]


def test_one_frame_of_a_longer_sound() -> None:
    """A picture of a moment is at that moment; one that lasts, or says nothing of time, is there all the time."""
    audio = only("audio").stream("audio")
    whole: dict[str, Stream | Text] = {"audio": replace(audio, time=torch.tensor([0.0, 10.0]).expand(SAMPLES, VIEWS, 2))}
    frame = only("video").stream("video").data[:, :, :1]
    page = film(batch_of(whole | {"video": Stream("video", frame, time=torch.full((SAMPLES, VIEWS, 2), 4.0))}))
    assert len(page) == 1
    line = (page[0] == torch.tensor(CURSOR, dtype=torch.uint8)).all(-1).sum(0)
    assert int(line.argmax()) == LEFT + round(0.4 * (4 * (TILE + GAP) - GAP - 1))
    video, every = streams()["video"], [*range(FRAMES)]
    for time, shown in ((torch.tensor([3.2, 3.2]), [2]), (torch.tensor([START, END]), every), (None, every)):
        own = None if time is None else time.expand(SAMPLES, VIEWS, 2)
        mask = Stream("mask", torch.ones(SAMPLES, VIEWS, 1, SIDE, SIDE, 1, dtype=torch.bool), time=own)
        tiles = film(batch_of({"video": video, "mask": mask}))[:, -TILE - GAP : -GAP, 2 * GAP + TILE :][:, :, :TILE]
        assert [number for number, tile in enumerate(tiles) if not hatched(tile).any()] == shown


def test_a_stream_that_begins_later_is_drawn_later() -> None:
    late = only("audio").stream("audio")
    late = replace(late, time=torch.tensor([3.0, 4.0]).expand(SAMPLES, VIEWS, 2))
    page = sheet(batch_of({"audio": late, "signal": streams()["signal"]}))
    strip = hatched(page[GAP + 13 + GAP :][:STRIP, LEFT : LEFT + WIDTH])
    middle = round((WIDTH - 1) / 2)
    assert strip[:, :middle].all()
    assert not strip[:, middle + 1 :].all(0).any()


def test_the_last_step_lasts_until_the_next_would_come() -> None:
    # One clip of two seconds: a sensor of 11 samples, the last of them at 1.8 s, and one that ends long before.
    ends = {"sound": 2.0, "sensor": 1.8, "other": 0.9}
    content: dict[str, Stream | Text] = {
        name: Stream("signal", torch.randn(1, 1, 1, 10), time=torch.tensor([[[0.0, end]]])) for name, end in ends.items()
    }
    page = sheet(Batch(torch.tensor([0]), torch.tensor([0]), content))
    strips = [page[GAP + 13 + GAP + k * (STRIP + GAP) :][:STRIP, LEFT : LEFT + WIDTH] for k in range(3)]
    share = [hatched(strip).all(0).float().mean() for strip in strips]
    assert share[:2] == [0, 0]
    assert share[2] == pytest.approx(0.5, abs=0.01)


def test_frames_out_of_a_streams_time_are_hatched() -> None:
    content = streams()
    masks = content["mask"]
    assert isinstance(masks, Stream)
    # Masks of the second half only: three of its five frames are more than a step away.
    content = {"video": content["video"], "mask": replace(masks, time=torch.tensor([3.5, 4.0]).expand(SAMPLES, VIEWS, 2))}
    page = sheet(batch_of(content))
    shown = [hatched(page[-TILE - GAP : -GAP, LEFT + k * (TILE + GAP) :][:, :TILE]).all() for k in range(FRAMES)]
    assert shown == [True, True, True, False, False]


@pytest.mark.parametrize("name", ["video", "flow", "depth", "mask", "skeleton", "track"])
def test_frames_that_are_not_valid_are_hatched(name: str) -> None:
    valid = torch.ones(SAMPLES, VIEWS, FRAMES, dtype=torch.bool)
    valid[:, :, 3] = False
    page = sheet(only(name, valid=valid))
    # Boxes alone make no square, of which the rest is white.
    least = 0.7 if name == "track" else 1.0
    share = [hatched(page[-TILE - GAP : -GAP, LEFT + k * (TILE + GAP) :][:, :TILE]).float().mean() for k in range(FRAMES)]
    assert share[3] >= least
    assert max(share[:3] + share[4:]) < 0.1
    whole = sheet(only(name, valid=torch.zeros(SAMPLES, VIEWS, dtype=torch.bool)))
    assert hatched(whole[-TILE - GAP : -GAP, LEFT : LEFT + TILE]).float().mean() >= least


def test_pixels_that_are_not_valid_are_hatched() -> None:
    flow = torch.ones(SAMPLES, VIEWS, FRAMES, SIDE, SIDE, 2)
    flow[..., 5, 7, 0] = math.nan
    valid = torch.ones(SAMPLES, VIEWS, FRAMES, SIDE, SIDE, dtype=torch.bool)
    valid[..., :4, :] = False
    page = sheet(only("flow", data=flow.half(), valid=valid))
    tile = hatched(page[-TILE - GAP : -GAP, LEFT : LEFT + TILE])
    expected = ~valid[0, 0, 0]
    expected[5, 7] = True
    assert torch.equal(tile, expected.repeat_interleave(4, 0).repeat_interleave(4, 1))


@pytest.mark.parametrize(("name", "steps"), [("audio", 4001), ("signal", 41), ("feature", 3)])
def test_steps_that_are_not_valid_are_hatched_and_set_no_scale(name: str, steps: int) -> None:
    data = only(name).stream(name).data.clone()
    wrong = slice(0, steps // 3)
    axis = 2 if name == "feature" else 3
    data.narrow(axis, 0, steps // 3).fill_(1e6)
    valid = torch.ones(SAMPLES, VIEWS, steps, dtype=torch.bool)
    valid[:, :, wrong] = False
    page = sheet(only(name, data=data, valid=valid))
    strip = hatched(page[GAP + 13 + GAP :][:STRIP, LEFT : LEFT + WIDTH])
    edge = (steps // 3 - 0.5) / (steps - 1) * (WIDTH - 1)
    assert strip[:, : math.floor(edge)].all()
    assert not strip[:, math.ceil(edge) + 1 :].all(0).any()
    # The same as if nothing but zeros stood there, and as if it were not finite.
    data.narrow(axis, 0, steps // 3).fill_(0)
    assert torch.equal(page, sheet(only(name, data=data, valid=valid)))
    data.narrow(axis, 0, steps // 3).fill_(math.nan)
    assert torch.equal(page, sheet(only(name, data=data)))


@pytest.mark.parametrize("name", ["audio", "signal", "feature", "skeleton", "video"])
def test_what_fills_up_is_not_drawn(name: str) -> None:
    stream = only(name).stream(name)
    axis = {"audio": 3, "signal": 3, "feature": 2, "skeleton": 3, "video": 2}[name]
    steps = stream.data.shape[axis]
    longer = torch.cat([stream.data, torch.full_like(stream.data, 9)], dim=axis)
    for length in (torch.tensor([steps, 1]), torch.tensor([[steps, 1], [1, 1]])):
        assert torch.equal(sheet(only(name, data=longer, length=length)), sheet(only(name)))
    nothing = sheet(only(name, length=torch.zeros(SAMPLES, dtype=torch.int64)))
    assert hatched(nothing).float().mean() > 0.02


def test_objects_are_drawn_over_the_video() -> None:
    content = streams()
    black = torch.zeros(SAMPLES, VIEWS, FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
    page = sheet(batch_of({"video": Stream("video", black), "track": content["track"]}))
    tile = page[-TILE - GAP : -GAP, LEFT : LEFT + TILE]
    # Three boxes at one place; the last is on top.
    line = (tile == torch.tensor(OBJECT_COLOURS[2], dtype=torch.uint8)).all(-1)
    factor = TILE // SIDE
    assert line.nonzero().amin(0).tolist() == [6 * factor, 4 * factor]
    assert line.nonzero().amax(0).tolist() == [25 * factor - 1, 20 * factor - 1]
    # Without a video, the picture reaches as far as the boxes.
    alone = sheet(batch_of({"track": content["track"]}))[-TILE - GAP : -GAP, LEFT : LEFT + TILE]
    line = (alone == torch.tensor(OBJECT_COLOURS[2], dtype=torch.uint8)).all(-1)
    assert line.any()
    scale = TILE // 25
    assert (line.nonzero().amax(0) - line.nonzero().amin(0) + 1).tolist() == [19 * scale, 16 * scale]


def test_sensors_have_a_panel_for_three_channels() -> None:
    heights = {
        channels: sheet(only("signal", data=torch.randn(SAMPLES, VIEWS, channels, 40))).shape[0] for channels in (3, 6, 12, 13)
    }
    assert heights[6] - heights[3] == STRIP + GAP
    assert heights[12] - heights[6] == 2 * (STRIP + GAP)
    # More of them are a picture of numbers.
    assert heights[13] == heights[3]


def test_titles_of_samples() -> None:
    batch = only("video")
    plain = sheet(batch)
    for changed in (
        replace(batch, index=torch.tensor([9, 8])),
        replace(batch, label=torch.tensor([4, 8])),
        replace(batch, label=torch.tensor([[0.0, 1, 1], [0, 0, 0]])),
        replace(batch, substituted=torch.tensor([1, -1])),
    ):
        assert not torch.equal(sheet(changed)[:20], plain[:20])
        assert torch.equal(sheet(changed)[20:], plain[20:])


@pytest.mark.parametrize(("row", "view"), [(2, 0), (0, 2), (-1, 0)])
def test_samples_that_there_are_not(row: int, view: int) -> None:
    with pytest.raises(SettingError, match=r"2 sample\(s\) of 2 view\(s\)"):
        sheet(only("video"), row, view)


def test_bodies_of_other_joints_are_dots() -> None:
    line = torch.zeros(1, 3, 1, 7, 1)
    line[0, 0, 0, :, 0] = torch.arange(1.0, 8)
    line[0, 2, 0, :, 0] = torch.arange(1.0, 8)
    drawn = (draw_skeletons(line, 64) < 255).any(-1)[0, 0]
    assert int(drawn.sum()) == 7 * 9
    assert sheet(only("skeleton", data=torch.randn(SAMPLES, VIEWS, 3, FRAMES, 20, 1))).shape == sheet(only("skeleton")).shape

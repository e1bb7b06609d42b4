"""Label propagation with a frozen encoder: masks of objects (DAVIS-2016 and DAVIS-2017), parts of bodies (VIP) and joints
(JHMDB) of the first frame are carried through each video, and compared with the true ones. Nothing is trained.

Protocols: videowalk (https://arxiv.org/abs/2006.14613), which SiamMAE and CropMAE (https://arxiv.org/abs/2403.17823) use, and
DINO (https://arxiv.org/abs/2104.14294); `modules.downstream.propagation.propagate` says how they differ.

Deviations from the official code:

* Resized frames have whole numbers from 0 to 255, as everywhere in this project; the official code keeps fractions.
* Masks are scored at the size of the files. CropMAE scores DAVIS at 480 x 880, to which its files were resized.
* Position codes are resampled as the encoders do it (trilinear for video transformers, timm's bicubic for image towers); DINO
  and CropMAE use a bicubic without antialiasing whose scale is slightly off.
* Frames may have any size: see `modules.downstream.propagation.maps`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.backbones import AnyEncoder
from modules.core.batch import Batch
from modules.core.distributed import gather_lists
from modules.core.errors import SettingError
from modules.core.output import Columns, StepOutput
from modules.core.run import LabelledSequences, Measure, run_of
from modules.downstream.metrics.segmentation import VOID
from modules.downstream.propagation.drawing import Propagated
from modules.downstream.propagation.joints import draw_joints, read_joints, to_grid, to_pixels
from modules.downstream.propagation.maps import MapSettings, frame_maps, steps_of
from modules.downstream.propagation.masks import Layout, SoftMask, to_labels, to_mask
from modules.downstream.propagation.propagate import PropagationSettings, Propagator
from modules.downstream.propagation.scores import MAIN, Scores, score, summary
from modules.training.method import Method
from modules.training.optim import AdamWSettings

ONLY_TEST = "LabelPropagation has nothing to train; run python main.py test with the same settings."
MOST_LINES = 60
"""Videos whose scores are printed."""


class _Video(NamedTuple):
    """Result of one video."""

    number: int
    name: str
    frames: int
    scores: Scores
    copied: Scores
    """of the labels of the first frame in all frames"""


class LabelPropagation(Method):
    """Carries the labels of the first frame through each video with the features of a frozen encoder.

    Of masks of objects, `test/j_and_f` and the mean, recall and decay of J and F, as davis2017-evaluation computes them; of
    parts `test/miou`; of joints `test/pck_0.1` to `test/pck_0.5`; all in percent. `test/copied_...` is the first of these for
    labels that do not move. A result of each video is in the table `..._sequences.csv` and in the result file.

    Args:
        backbone: encoder of videos, with `checkpoint` set.
        maps: which of its features are compared.
        rule: how labels are propagated.

    Raises:
        SettingError: if the encoder has no map of features.
    """

    predicts_by_encoder = False

    def __init__(
        self,
        backbone: AnyEncoder,
        maps: MapSettings = MapSettings(),  # noqa: B008  (never mutated; shows the defaults in --help)
        rule: PropagationSettings = PropagationSettings(),  # noqa: B008
    ) -> None:
        super().__init__(AdamWSettings())
        steps_of(backbone)
        self.backbone, self.maps, self.rule = backbone.requires_grad_(False), maps, rule
        self.test_record: dict[str, Any] = {}
        """Record of the last test: `sequences` (scores by name), `missed` (reasons by name), `frames`."""
        self.test_tables: dict[str, Columns] = {}
        """The table `sequences` of the last test."""
        self._videos: list[_Video] = []
        self._missed: list[tuple[int, str, str]] = []

    def setup(self, stage: str) -> None:
        """Check the data before any video is read.

        Raises:
            SettingError: for commands other than test, and for data without labels in every frame.
        """
        super().setup(stage)
        if stage != "test":
            raise SettingError(ONLY_TEST)
        if not isinstance(data := run_of(self.trainer).datamodule, LabelledSequences):
            raise SettingError(
                f"LabelPropagation needs complete videos with labels in every frame, which {type(data).__name__} does not "
                "give; choose --data DAVIS2016Sequences, DAVIS2017Sequences, JHMDBSequences, VIPSequences or "
                "SyntheticSequences."
            )

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """There is no loss.

        Raises:
            SettingError: always.
        """
        raise SettingError(ONLY_TEST)

    def on_test_epoch_start(self) -> None:
        """Reset the collected results."""
        self._videos, self._missed = [], []
        self.test_record, self.test_tables = {}, {}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Propagated] | None:
        """Propagate the labels of one video; returns them as `propagated`, for pictures, or None if it could not be read."""
        data = self._data()
        number = int(batch.index[0])
        name = data.sequence_names[number]
        if int(batch.substituted[0]) >= 0:
            self._missed.append((number, name, "; ".join(reason for _, reason in batch.reading.faults)))
            return None
        frames = self.inputs(batch)[0, 0]
        if data.measure == "joints":
            truth, (height, width) = batch.extra["joints"][0].cpu(), batch.extra["stored"][0].tolist()
            stored = (int(height), int(width))
            predicted = self.propagate_joints(frames, truth[0], stored)
        else:
            truth = batch.extra["mask"][0]
            stored = (truth.shape[1], truth.shape[2])
            start = torch.where(truth[0] == VOID, 0, truth[0])
            predicted = self.propagate_mask(frames, start)
        still = predicted[:1].expand_as(predicted)
        scores, copied = (score(data.measure, one, truth, data.num_labels) for one in (predicted, still))
        self._videos.append(_Video(number, name, len(frames), scores, copied))
        return {"propagated": Propagated(name, data.measure, frames, predicted, truth, stored)}

    def propagate_mask(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Masks of all frames of a video.

        Args:
            frames: uint8 [T, H, W, 3].
            mask: uint8 [H0, W0], object ids of the first frame.

        Returns:
            uint8 [T, H0, W0], the first of which is `mask`.
        """
        variant = self.rule.variant
        ids = torch.empty(0)

        def start(layout: Layout) -> Tensor:
            nonlocal ids
            ids, labels = to_labels(mask, layout, variant)
            return labels

        stored = (mask.shape[0], mask.shape[1])
        soft = self._carried(frames, stored, start)
        return torch.stack([mask, *(to_mask(SoftMask(ids, labels), layout, variant) for layout, labels in soft)])

    def propagate_joints(self, frames: Tensor, joints: Tensor, stored: tuple[int, int]) -> Tensor:
        """Joints of all frames of a video.

        Args:
            frames: uint8 [T, H, W, 3].
            joints: float64 [J, 2], x and y in the first frame, in pixels of the files.
            stored: height and width of the files.

        Returns:
            float64 [T, J, 2] on the host, -1 for joints that were lost.
        """

        def start(layout: Layout) -> Tensor:
            return draw_joints(to_grid(joints, layout), layout.grid).to(frames.device)

        found = [joints]
        for layout, labels in self._carried(frames, stored, start):
            places = read_joints(labels).cpu()
            found.append(torch.where(places < 0, -1.0, to_pixels(places, layout)))
        return torch.stack(found)

    def _carried(
        self, frames: Tensor, stored: tuple[int, int], start: Callable[[Layout], Tensor]
    ) -> Iterator[tuple[Layout, Tensor]]:
        """Soft labels [L, h, w] of all frames but the first, for which `start` makes them."""
        propagator = layout = None
        for maps in frame_maps(self.backbone, frames, self.maps):
            for features in maps.features:
                if propagator is None or layout is None:
                    grid = (features.shape[1], features.shape[2])
                    layout = Layout(stored, (frames.shape[1], frames.shape[2]), grid, maps.stride)
                    propagator = Propagator(features, start(layout), self.rule)
                else:
                    yield layout, propagator.step(features)

    def on_test_epoch_end(self) -> None:
        """Log the scores of all videos, and print those of each.

        Raises:
            SettingError: if no video could be read.
        """
        data = self._data()
        # Each once, should several processes have read it.
        videos = list({one.number: one for one in sorted(gather_lists(self._videos), key=lambda one: one.number)}.values())
        missed = {name: reason for _, name, reason in sorted(gather_lists(self._missed))}
        if missed:
            name, reason = next(iter(missed.items()))
            rank_zero_warn(f"{len(missed)} video(s) could not be read and do not count, the first is {name} ({reason}).")
        if not videos:
            raise SettingError("No video of the test could be read; check data.root.")
        total = summary(data.measure, [one.scores for one in videos])
        main = MAIN[data.measure]
        total[f"copied_{main}"] = summary(data.measure, [one.copied for one in videos])[main]
        self.log_dict({f"test/{name}": value for name, value in total.items()}, sync_dist=True)
        each = [
            summary(data.measure, [one.scores]) | {f"copied_{main}": summary(data.measure, [one.copied])[main]}
            for one in videos
        ]
        columns: Columns = {"sequence": [one.name for one in videos], "frames": [one.frames for one in videos]}
        columns |= {name: [row[name] for row in each] for name in total}
        self.test_tables = {"sequences": columns}
        self.test_record = {
            "videos": len(videos),
            "missed": missed,
            "frames": sum(columns["frames"]),
            "sequences": {one.name: row for one, row in zip(videos, each, strict=True)},
        }
        rank_zero_info(_table(data.measure, columns))

    def _data(self) -> LabelledSequences:
        data: LabelledSequences = run_of(self.trainer).datamodule
        return data


def _table(measure: Measure, columns: Columns) -> str:
    """The scores of each video as text, with those of copied labels."""
    main = MAIN[measure]
    names = ["frames", main, *(name for name in ("j_mean", "f_mean") if name in columns), f"copied_{main}"]
    width = max(8, *(len(name) for name in columns["sequence"]))
    lines = [" ".join([f"{'sequence':<{width}}", *(f"{name:>15}" for name in names)])]
    for row, sequence in enumerate(columns["sequence"][:MOST_LINES]):
        values = (columns[name][row] for name in names)
        lines.append(" ".join([f"{sequence:<{width}}", *(f"{value:>15.4g}" for value in values)]))
    if len(columns["sequence"]) > MOST_LINES:
        lines.append(f"and {len(columns['sequence']) - MOST_LINES} more, in the table next to the result file")
    return "\n".join(lines)

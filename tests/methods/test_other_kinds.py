"""Methods of kinds that are not in the project, to show that the interfaces support them, from the loader to a resumed run.

One has two encoders on two streams of the same sample, one takes ordered clips with gaps, one sequences of features with
lengths.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningDataModule
from torch import Tensor, nn

from datamodules import VideoFolder
from datamodules.loading.loader import EpochSampler, LoaderMemory, ResumableLoader, SampleKey
from datamodules.loading.worker_guard import WorkerGuard
from datamodules.settings import ReadSettings
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.samplers import Dense, OrderedClips
from datamodules.video.sampling import ClipSettings, Plan
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Kind, Stream, join_streams
from modules.core.output import StepOutput
from modules.losses.contrast import unit_rows
from modules.training.method import Method
from tests.callbacks.runs import StopAfter, make_trainer
from tests.registry import FRAMES, OPTIM, SIDE, tiny_vit
from tests.resume.bits import differences
from tests.resume.runs import write_videos

# --- Two encoders on two streams of the same sample ---


class VideosWithBodies(VideoClipDataset):
    """A body whose joints encode the frame indices of the clip."""

    def _content(self, row: int, video: Tensor, plan: Plan) -> dict[str, Any]:
        moments = torch.from_numpy(plan.moments).float()
        body = moments[:, None, :, None, None].expand(-1, 3, -1, 25, 2).contiguous()
        stream = Stream("skeleton", body, time=torch.from_numpy(plan.time))
        return super()._content(row, video, plan) | {"streams": {"skeleton": stream}}


class FolderWithBodies(VideoFolder):
    """Videos, with a sensor at the same times."""

    streams: dict[str, Kind] = {"video": "video", "skeleton": "skeleton"}  # noqa: RUF012

    def _dataset(self, manifest: Any, train: bool, views: Any, guard: WorkerGuard) -> VideosWithBodies:
        return VideosWithBodies(manifest, self.clip, self.seed, train, guard=guard, views=views)


class VideoMeetsSkeleton(Method):
    """Pulls the features of a clip and of its body together, and those of others apart."""

    def __init__(self) -> None:
        super().__init__(OPTIM)
        self.backbone, self.partner = tiny_vit(), BiGRU(8, 1)
        self.heads = nn.ModuleDict({name: nn.Linear(part.embed_dim, 16) for name, part in self.encoders().items()})

    def encoders(self) -> dict[str, nn.Module]:
        return super().encoders() | {"partner": self.partner}

    def reads(self) -> dict[str, tuple[Kind, ...]]:
        return {"video": ("video",), "skeleton": ("skeleton",)}

    def inputs(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        return batch.stream("video" if encoder == "backbone" else "skeleton").data

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        one, other = (self.project(batch, name) for name in self.encoders())
        return {"loss": F.cross_entropy(10 * one @ other.T, torch.arange(len(one))), "show": {"clip": self.inputs(batch)[:, 0]}}

    def project(self, batch: Batch, name: str) -> Tensor:
        network: Any = self.encoder(name)
        return unit_rows(self.heads[name](network(network.preprocess(self.inputs(batch, name)[:, 0]))))


# --- Ordered clips with gaps ---


class ClipOrder(Method):
    """Classifies the order of three clips of a video."""

    def __init__(self) -> None:
        super().__init__(OPTIM)
        self.backbone = VideoViT("micro", SIDE, 2, patch_size=8, embed_dim=32, depth=1, num_heads=2)
        self.orders = torch.tensor(list(itertools.permutations(range(3))))
        self.head = nn.Linear(3 * self.backbone.embed_dim, len(self.orders))

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        clips = self.inputs(batch)
        starts = batch.stream("video").time
        assert starts is not None
        assert (starts[:, 1:, 0] > starts[:, :-1, 1]).all(), "clips are in order and do not overlap"
        chosen = torch.randint(len(self.orders), (len(clips),), generator=generator)
        mixed = clips[torch.arange(len(clips))[:, None], self.orders[chosen]]
        features = self.backbone(self.normalise(mixed.flatten(0, 1))).unflatten(0, mixed.shape[:2])
        return {"loss": F.cross_entropy(self.head(features.flatten(1)), chosen), "show": {"clip": mixed[:, 0]}}


# --- Sequences of features with lengths ---


class Sequences(torch.utils.data.Dataset[Any]):
    """Features of one long video each, some longer than others."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: SampleKey) -> tuple[int, Stream]:
        steps = 3 + key.row % 4
        return key.row, Stream("feature", torch.arange(steps * 8.0).view(1, steps, 8).sin() + key.row)


def as_batch(samples: list[tuple[int, Stream]]) -> Batch:
    index = torch.tensor([row for row, _ in samples])
    return Batch(index, torch.full_like(index, -1), {"feature": join_streams([stream for _, stream in samples])})


class SequenceData(LightningDataModule):
    """Features as from a file."""

    streams: dict[str, Kind] = {"feature": "feature"}  # noqa: RUF012
    batch_size = 4

    def __init__(self, workers: int = 0) -> None:
        super().__init__()
        self.workers, self.memory = workers, LoaderMemory()

    def train_dataloader(self) -> ResumableLoader:
        sampler = EpochSampler(12, 0, True)
        return self.memory.keep(ResumableLoader(Sequences(), sampler, self.batch_size, self.workers, as_batch))

    def state_dict(self) -> dict[str, Any]:
        return {"loader": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["loader"])


class NextFeature(Method):
    """Predicts each feature of a sequence from those before it."""

    stream, kinds = "feature", ("feature",)

    def __init__(self) -> None:
        super().__init__(OPTIM)
        self.backbone, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 8)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        stream = batch.stream("feature")
        assert stream.length is not None
        sequence = stream.data[:, 0]
        real = torch.arange(1, sequence.shape[1]) < stream.length[:, None]
        error = (self.head(self.backbone(sequence[:, :-1])[0]) - sequence[:, 1:]).square().mean(2)
        return {"loss": (error * real).sum() / real.sum(), "show": {}}


# --- All of them ---


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


def folder(kind: type[VideoFolder], videos: Path, clip: ClipSettings, workers: int) -> VideoFolder:
    return kind(str(videos), clip=clip, batch_size=4, reading=ReadSettings(workers, max_bad_fraction=1.0), seed=0)


CASES: dict[str, tuple[Callable[[], Method], Callable[[Path, int], LightningDataModule]]] = {
    "two encoders": (
        VideoMeetsSkeleton,
        lambda videos, workers: folder(
            FolderWithBodies, videos, ClipSettings(frames=FRAMES, size=SIDE, sampler=Dense(1)), workers
        ),
    ),
    "ordered clips": (
        ClipOrder,
        lambda videos, workers: folder(
            VideoFolder, videos, ClipSettings(frames=2, size=SIDE, clips=3, sampler=OrderedClips(gap=1, stride=1)), workers
        ),
    ),
    "sequences of features": (NextFeature, lambda videos, workers: SequenceData(workers)),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_from_the_loader_to_a_resumed_run(case: str, workers: int, videos: Path, tmp_path: Path) -> None:
    build, data = CASES[case]
    ends = []
    for name, stops in (("whole", [None]), ("parts", [2, None])):
        checkpoint = None
        for stop in stops:
            torch.manual_seed(0)
            trainer = make_trainer(tmp_path / name, [StopAfter(stop)] if stop else [], limit_val_batches=0)
            trainer.fit(build(), datamodule=data(videos, workers), ckpt_path=checkpoint, weights_only=True)
            checkpoint = str(tmp_path / name / "run.ckpt")
            trainer.save_checkpoint(checkpoint)
        ends.append(torch.load(checkpoint, weights_only=True))  # type: ignore[arg-type]
    assert ends[0]["global_step"] > 4
    assert differences(ends[0]["state_dict"], ends[1]["state_dict"]) == []
    assert differences(ends[0]["optimizer_states"], ends[1]["optimizer_states"]) == []


def test_streams_of_a_sample_follow_one_plan(videos: Path) -> None:
    data = folder(FolderWithBodies, videos, ClipSettings(frames=FRAMES, size=SIDE, sampler=Dense(1)), 0)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    times = batch.stream("video").time
    moments = batch.stream("skeleton").data[:, :, 0, :, 0, 0]
    assert torch.allclose(torch.stack([moments[..., 0], moments[..., -1]], dim=-1), times)


def test_features_of_either_encoder(videos: Path) -> None:
    data = folder(FolderWithBodies, videos, ClipSettings(frames=FRAMES, size=SIDE, sampler=Dense(1)), 0)
    data.setup("fit")
    batch, method = next(iter(data.train_dataloader())), VideoMeetsSkeleton().eval()
    assert method.embed(batch).shape == (4, 32)
    assert method.embed(batch, "partner").shape == (4, method.partner.embed_dim)

"""CVRL: two clips of one video are a positive pair, all other clips of the batch over all devices are negatives.

Paper: Spatiotemporal Contrastive Video Representation Learning, https://arxiv.org/abs/2008.03800; code: TensorFlow's official
models (`official/projects/video_ssl`).

Two clips are cut from a video at a random distance, of which small ones are more probable (`DecreasingGap`), each with its own
crop. Each clip gets its own flip, colours and blur, the same in all its frames. Encoder and projection map both to unit
vectors. The loss is SimCLR's, in both directions: a clip must find the other one of its video among all clips of the batch but
itself. The sum of both directions is taken, not their mean. The encoder is kept.

Shapes at the published size: clips [B, 2, 16, 224, 224, 3], both clips of a video in one batch of 2 B for the encoder; features
[2 B, 2048] (SlowOnly-like R3D-50), projections of 3 x (linear, BatchNorm, ReLU) with 2048 values and a linear one with 128.

Memory of the loss: for a batch of N videos over all devices, the logits are 2 x N x 2 N float32. With N = 1,024, both matrices
of [1,024, 2,048] take 16 MiB (8 MiB each). Their logarithmic probabilities, which are as large, are kept for the backward pass
(18 MiB with masks and inputs); at most 35 MiB are in use at once. Every process computes all rows, for which it receives all
projections (2 x 1,024 x 128 float32, 1 MiB); the memory of the clips is far larger.

Differences from the official code:

* learning rate: the official code adds the gradients of the replicas instead of averaging them, so its update is larger by
  their number, which its files do not tell. Here the loss is that of the joined batch, for any number of processes;
  `StepSGDSettings.replicas` is the factor. SGD's momentum is PyTorch's: it collects gradients, and TensorFlow's collects
  updates, which differs while the rate changes.
* weight decay (half the sum of the squares of all kernels, in the official loss) is the optimiser's; the logged loss is without
it;
* every process computes the loss of all rows, so that the gradient of gathered projections needs nothing sent back;
* crops are resized with antialiasing and rounded to 0..255 before the colours are changed;
* running variances in the projection's BatchNorm are unbiased, theirs are biased (a factor of 1.0005 for 2,048 clips; they are
  used in validation alone);
* initial weights are PyTorch's defaults.

The paper's form of the augmentation (`augmentation.form`) is not in the official code, and was not verified. The official
results were not repeated here at full size.

With several processes, batch norm must see the complete batch (trainer.sync_batchnorm), as in the official code. With gradient
accumulation, negatives are those of one of the accumulated batches.
"""

from functools import partial

import torch
from torch import Tensor

from modules.augment.clip_pairs import PairAugmentation
from modules.augment.flips import RandomFlip
from modules.backbones.cnn.base import VideoCNN
from modules.backbones.vit.video_vit import VideoViT
from modules.core.batch import Batch, Preparation
from modules.core.errors import SettingError, check_positive
from modules.core.output import StepOutput
from modules.core.run import run_of
from modules.layers.heads import ProjectionMLP
from modules.losses.contrast import pair_contrast, unit_rows
from modules.losses.video_text import gather_rows_with_gradient
from modules.training.method import Method
from modules.training.optim import StepSGDSettings


class CVRL(Method):
    """Contrast of two clips of one video with all other clips of the batch (https://arxiv.org/abs/2008.03800).

    Args:
        backbone: encoder, kept after pretraining.
        hidden: length of the vectors between the projection's layers.
        out_dim: length of the compared vectors.
        temperature: divisor of the cosine similarities.
        augmentation: colours and blur, drawn for each clip.
        optim: optimiser and schedule.
        flip: probability of mirroring a clip; null takes one half, or 0 if classes of the data distinguish left and right.
    """

    def __init__(
        self,
        backbone: VideoCNN | VideoViT,
        hidden: int = 2048,
        out_dim: int = 128,
        temperature: float = 0.1,
        augmentation: PairAugmentation = PairAugmentation(),  # noqa: B008  (never mutated; shows the defaults in --help)
        optim: StepSGDSettings = StepSGDSettings(),  # noqa: B008
        flip: float | None = None,
    ) -> None:
        super().__init__(optim)
        check_positive("model", hidden=hidden, out_dim=out_dim, temperature=temperature)
        self.flip = RandomFlip("model.flip", flip)
        self.backbone = backbone
        self.projection = ProjectionMLP(backbone.embed_dim, hidden, out_dim)
        self.temperature, self.augmentation = temperature, augmentation

    def on_fit_start(self) -> None:
        """Check that there are negatives before the first step.

        Raises:
            SettingError: if the batch over all devices is a single video.
        """
        super().on_fit_start()
        batch_size = getattr(run_of(self.trainer).datamodule, "batch_size", None)
        if batch_size is not None and batch_size * self.trainer.world_size < 2:
            raise SettingError("CVRL's negatives are clips of other videos of the batch; set data.batch_size to 2 or more.")

    def preparation(self) -> Preparation:
        """Colours and blur are drawn in the loader workers; see `Method.preparation`."""
        return partial(self.augmentation.prepare, self.seed)

    def project(self, clips: Tensor) -> Tensor:
        """Clips [N, T, H, W, 3] from 0 to 255 -> unit rows [N, out_dim]."""
        return unit_rows(self.projection(self.backbone(self.normalise(clips))))

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Augment both clips, encode, compare. Videos are [B, 2, T, H, W, 3]."""
        video = self.inputs(batch)
        if video.shape[1] != 2:
            raise SettingError(f"CVRL needs two clips of each video, not {video.shape[1]}; set data.clip.clips to 2.")
        looks = batch.prepared or self.augmentation.draw(len(video), generator)
        first, second = (self.augmentation(self.flip(video[:, view], generator), looks[view]) for view in (0, 1))
        # All clips go through the encoder at once, so that BatchNorm sees both clips of all videos.
        rows = self.project(torch.cat([first, second])).unflatten(0, (2, -1)).transpose(0, 1)
        # In validation, processes may have different numbers of videos, so each compares only its own.
        everyone = gather_rows_with_gradient(rows) if self.training else rows
        found = pair_contrast(everyone[:, 0], everyone[:, 1], self.temperature)
        return {
            "loss": found.losses.mean(),
            "log": {"top1": found.top1.mean(), "entropy": found.entropy.mean()},
            "show": {"clip": first.round().byte(), "second_clip": second.round().byte()},
        }

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """Both clips of the pairs, as the network gets them."""
        return {"first": output["show"]["clip"], "second": output["show"]["second_clip"]}

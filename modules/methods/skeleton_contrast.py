"""Skeleton contrast: contrastive learning between two representations of one skeleton sequence.

Paper: Skeleton-Contrastive 3D Action Representation Learning, https://arxiv.org/abs/2108.03656. Two views of a recording are
cropped in time and augmented in space. Two encoders see each view in different representations (a sequence, a graph, an image).
A query of one encoder must match the key that the other's momentum copy computes from the other view, among earlier keys of
that copy, and vice versa. With a single encoder, its queries are compared with its own keys: the paper's baseline
within one representation.

Shapes for BiGRU and A-GCN at 64 frames: views [B, 3, 64, 25, 2], features [B, 2048] and [B, 256], compared in 128 dimensions,
queues [16384, 128].

Differences from the official code: views are augmented on the device, clip by clip. With several processes, all keys reach both
queues and the momentum copies are updated in every step; in the official code, DataParallel keeps both on the first
device only.

With several processes, batch norm must see the whole batch (trainer.sync_batchnorm) for loss and gradients to equal those of
one process with the joined batch; the official code does not require it. The momentum update happens once per batch, also with
gradient accumulation.
"""

import torch
from torch import Tensor, nn

from modules.augment.skeletons import SkeletonAugmentation
from modules.backbones.skeleton.base import SkeletonEncoder
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.loading import load_strictly
from modules.core.output import StepOutput
from modules.core.randomness import device_generator
from modules.layers.contrast.momentum_contrast import ContrastSettings, MomentumContrast
from modules.layers.drawing.skeletons import draw_skeletons
from modules.losses.contrast import Contrast
from modules.training.method import Method
from modules.training.optim import SGDSettings
from modules.weights.files import read_weights
from modules.weights.names.skeleton_contrast import from_official

SHUFFLE_STREAM = 4
# Maximum number of clips and frames in pictures.
SHOWN_CLIPS, SHOWN_FRAMES = 8, 16


class SkeletonContrast(Method):
    """Momentum contrast between two representations of a skeleton, or within one (https://arxiv.org/abs/2108.03656).

    Args:
        backbone: first encoder, kept after pretraining. BiGRU, AGCN or HCN; each computes its own representation of the
            skeleton.
        partner: second encoder, whose keys are compared with the first encoder's queries and vice versa; null compares
            `backbone` with itself.
        augmentation: spatial augmentation, drawn for each view.
        contrast: heads, queues and key branches.
        init_from: file with the weights of the whole method to start from, loaded strictly: our .ckpt or .safetensors, or an
            official .pth.tar. Optimiser and schedule start afresh.
        optim: optimiser and schedule; the paper uses a schedule with milestones.
    """

    stream, kinds = "skeleton", ("skeleton",)

    def __init__(
        self,
        backbone: SkeletonEncoder,
        partner: SkeletonEncoder | None = None,
        augmentation: SkeletonAugmentation = SkeletonAugmentation(),  # noqa: B008  (never mutated; shows the defaults in --help)
        contrast: ContrastSettings = ContrastSettings(temperature=0.07, shuffle=False),  # noqa: B008
        init_from: str | None = None,
        optim: SGDSettings = SGDSettings(),  # noqa: B008
    ) -> None:
        super().__init__(optim)
        augmentation.check()
        self.augmentation = augmentation
        self.backbone: SkeletonEncoder = backbone
        self.contrast = _contrast(backbone, contrast)
        self.partner = partner
        self.partner_contrast = _contrast(partner, contrast) if partner is not None else None
        if init_from is not None:
            load_strictly(self, from_official(read_weights(init_from, "model.init_from")), init_from)

    def encoders(self) -> dict[str, nn.Module]:
        """`backbone`, and `partner` if there is one."""
        return super().encoders() | ({"partner": self.partner} if self.partner is not None else {})

    def on_fit_start(self) -> None:
        """Check the batch size against the queue before the first step."""
        super().on_fit_start()
        self.contrast.check(self.trainer)

    def on_train_start(self) -> None:
        """Check the queue against the size of the data set before the first step."""
        super().on_train_start()
        self.contrast.check_data(self.trainer)

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        """Augment both views, encode, compare. Skeletons are [B, 2, 3, T, J, M]."""
        views = self.inputs(batch)
        if views.shape[1] != 2:
            raise SettingError(
                f"SkeletonContrast needs two views of each recording, not {views.shape[1]}; set data.clip.clips to 2."
            )
        query, key = self.augmentation(views[:, 0], generator), self.augmentation(views[:, 1], generator)
        found = self.compare(query, key)
        return {
            "loss": torch.stack([one.loss for one in found]).sum(),
            "log": {name: one.top1 for name, one in zip(("top1", "partner_top1"), found, strict=False)},
            "show": {"skeleton": query, "key_skeleton": key, "plain_skeleton": views[:, 0]},
        }

    def compare(self, query: Tensor, key: Tensor) -> list[Contrast]:
        """Compare queries of each encoder with keys of the other (its own if there is only one), then update the queues.

        Args:
            query: float [B, 3, T, J, M], first views.
            key: float [B, 3, T, J, M], second views.
        """
        branches = [(self.backbone, self.contrast)]
        if self.partner is not None and self.partner_contrast is not None:
            branches.append((self.partner, self.partner_contrast))
        queries = [contrast.queries(encoder, query) for encoder, contrast in branches]
        keys = []
        for encoder, contrast in branches:
            shuffle = device_generator(self.device, SHUFFLE_STREAM, self.seed, self.global_step)
            keys.append(contrast.keys(encoder, key, shuffle))
        other = zip(reversed(branches), reversed(keys), strict=True)
        found = [contrast.compare(rows, theirs) for rows, ((_, contrast), theirs) in zip(queries, other, strict=True)]
        for (_, contrast), own in zip(branches, keys, strict=True):
            contrast.remember(own)
        return found

    @torch.no_grad()
    def embed(self, batch: Batch, encoder: str = "backbone") -> Tensor:
        """Features [B, D] of the first view of each recording."""
        return self.encoder(encoder)(self.inputs(batch, encoder)[:, 0]).float()

    def pictures(self, output: StepOutput) -> dict[str, Tensor]:
        """First views before and after augmentation, and second views."""
        names = {"plain": "plain_skeleton", "query": "skeleton", "key": "key_skeleton"}
        show = output["show"]
        every = -(-show["skeleton"].shape[2] // SHOWN_FRAMES)
        return {name: draw_skeletons(show[field][:SHOWN_CLIPS, :, ::every]) for name, field in names.items()}


def _contrast(encoder: SkeletonEncoder, settings: ContrastSettings) -> MomentumContrast:
    """Head, key branch and queue of an encoder; the head is initialised as in the official code."""
    contrast = MomentumContrast(encoder, settings)
    encoder.init_head(contrast.head[2])  # type: ignore[arg-type]
    contrast.key_head.load_state_dict(contrast.head.state_dict())
    return contrast

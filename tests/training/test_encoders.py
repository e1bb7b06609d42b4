"""Methods with several encoders, and what every encoder offers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.backbones.encoder import Encoder
from modules.backbones.frame_tower import FrameTower
from modules.backbones.skeleton.gru import BiGRU
from modules.backbones.vit.beit_video import BEiTVideo
from modules.core.batch import Batch
from modules.core.errors import SettingError
from modules.core.output import StepOutput
from modules.core.preprocessing import HALF, KINETICS, Normalisation, Origin
from modules.layers.contrast.momentum import frozen_copy
from modules.methods.skeleton_contrast import SkeletonContrast
from modules.training.method import Method
from tests.callbacks.runs import data, make_trainer
from tests.registry import FRAMES, OPTIM, SIDE, tiny_cnn, tiny_vit, video_batch


class Pair(Method):
    """Two encoders of one type, of which the second has a momentum copy."""

    def __init__(self, first: Normalisation | None = None, second: Normalisation | None = None) -> None:
        super().__init__(OPTIM)
        self.backbone, self.second = tiny_vit(), tiny_vit()
        self.backbone.feed(first)
        self.second.feed(second)
        self.slow = frozen_copy(self.second)

    def encoders(self) -> dict[str, nn.Module]:
        return super().encoders() | {"second": self.second}

    def copies(self, name: str) -> list[nn.Module]:
        return [self.slow] if name == "second" else []

    def step(self, batch: Batch, generator: torch.Generator) -> StepOutput:
        one, two = (self.embed_with_gradient(batch, name) for name in self.encoders())
        return {"loss": (one - two).square().mean(), "show": {"clip": self.inputs(batch)[:, 0]}}

    def embed_with_gradient(self, batch: Batch, name: str) -> Tensor:
        network = self.encoder(name)
        return network(network.preprocess(self.inputs(batch, name)[:, 0]))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (tiny_vit, "video"),
        (tiny_cnn, "video"),
        (lambda: BEiTVideo("micro", SIDE, FRAMES, patch_size=8, embed_dim=32, depth=1, num_heads=2), "video"),
        (lambda: FrameTower(num_frames=FRAMES, depth=1, checkpoint=None), "video"),
        (lambda: BiGRU(hidden=4, layers=1), "skeleton"),
    ],
    ids=["VideoViT", "VideoResNet", "BEiTVideo", "FrameTower", "BiGRU"],
)
def test_all_backbones_are_encoders(build: object, kind: str) -> None:
    encoder = build()  # type: ignore[operator]
    assert isinstance(encoder, Encoder)
    assert encoder.kind == kind


def test_each_encoder_keeps_how_it_is_fed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [], 1, limit_val_batches=0)
    trainer.fit(Pair(HALF, KINETICS), datamodule=data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = Pair()
    make_trainer(tmp_path, [], 2, limit_val_batches=0).fit(again, datamodule=data(), ckpt_path=str(tmp_path / "run.ckpt"))
    fed = [part.normalisation for part in (again.backbone, again.second, again.slow)]
    assert fed == [HALF, KINETICS, KINETICS]


def test_features_of_either_encoder() -> None:
    method, batch = Pair(HALF, KINETICS).eval(), video_batch(2)
    assert not torch.equal(method.embed(batch), method.embed(batch, "second"))
    expected = method.second(method.second.preprocess(method.inputs(batch)[:, 0]))
    assert torch.equal(method.embed(batch, encoder="second"), expected)
    with pytest.raises(SettingError, match="Pair has no encoder 'third'; choose one of backbone, second"):
        method.embed(batch, "third")


def test_skeleton_contrast_names_its_partner() -> None:
    assert list(SkeletonContrast(BiGRU(4, 1), optim=OPTIM).encoders()) == ["backbone"]  # type: ignore[arg-type]
    method = SkeletonContrast(BiGRU(4, 1), BiGRU(4, 1), optim=OPTIM)  # type: ignore[arg-type]
    assert list(method.encoders()) == ["backbone", "partner"]


def test_whose_copy_it_is_must_be_said() -> None:
    class Silent(Pair):
        copies = Method.copies

    with pytest.raises(TypeError, match=r"Silent\.copies must define"):
        Silent().adopt(Origin("a file", HALF))

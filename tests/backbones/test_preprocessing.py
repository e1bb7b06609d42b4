"""Preprocessing belongs to the backbone, and comes from its weights: in every method, probe, task and file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import video as published

from datamodules.cached_features import hash_network
from datamodules.generated.motion import SyntheticMotion
from datamodules.video.sampling import ClipSettings
from main import main
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.s3d import S3D
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.decoder import DecoderSettings
from modules.backbones.vit.video_vit import VideoViT
from modules.convert.command import convert
from modules.core.errors import SettingError
from modules.core.preprocessing import BGR_TO_ONE, HALF, IMAGENET, KINETICS, Normalisation
from modules.core.tokens import Grid
from modules.downstream.classification import Classification
from modules.downstream.counting import RepetitionCounting
from modules.downstream.detection import ActionDetection
from modules.downstream.retrieval import NearestNeighbours
from modules.layers.targets import PixelTarget, TimmTarget, TowerTarget
from modules.masks.tokens import TubeMask
from modules.methods.moco import MoCo
from modules.methods.tubelet_contrast import TubeletContrast
from modules.methods.videomae import VideoMAE
from modules.training.method import Method
from modules.weights.passport import read_passport
from tests.registry import CONTRAST, FRAMES, OPTIM, SGD, SIDE, tiny_cnn, tiny_locomotion, tiny_vit, video_batch

ORANGE = torch.tensor([255, 128, 0], dtype=torch.uint8).expand(1, FRAMES, SIDE, SIDE, 3)


def colour(video: Tensor) -> list[float]:
    """The three values of a clip of one colour."""
    assert video.dtype == torch.float32
    assert torch.equal(video, video[:, :, :1, :1, :1].expand_as(video))
    return video[0, :, 0, 0, 0].tolist()


def tclr_file(folder: Path) -> str:
    """A narrow TCLR in its authors' format."""
    torch.manual_seed(0)
    state = VideoResNet("r2plus1d_18_tclr", width=4).state_dict()
    torch.save({"state_dict": {f"module.0.{key}": value for key, value in state.items()}}, folder / "tclr.pth")
    return str(folder / "tclr.pth")


def tclr(checkpoint: str | None) -> VideoResNet:
    return VideoResNet("r2plus1d_18_tclr", width=4, checkpoint=checkpoint)


def torchvision_file(folder: Path, classes: int = 400) -> str:
    """A narrow R3D-18 in torchvision's format."""
    head = {"fc.weight": torch.zeros(classes, 32), "fc.bias": torch.zeros(classes)}
    torch.save(VideoResNet("r3d_18", width=4).state_dict() | head, folder / "torchvision.pth")
    return str(folder / "torchvision.pth")


def said(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


# --- The object ---


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_apply_and_restore(channels: Any) -> None:
    normalisation = Normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 2.0), channels)
    clip = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    video = normalisation.apply(clip)
    assert video.dtype == torch.float32
    assert video.shape == (2, 3, 3, 4, 5)
    for number, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.25), (0.3, 2.0))):
        place = number if channels == "RGB" else 2 - number
        assert torch.allclose(video[:, place], (clip[..., number].float() / 255 - mean) / std, atol=1e-6)
    assert torch.allclose(255 * normalisation.restore(video), clip.permute(0, 4, 1, 2, 3).float(), atol=1e-3)
    assert Normalisation.of_record(json.loads(json.dumps(normalisation.as_record()))) == normalisation


def test_statistics_of_others() -> None:
    theirs = published.R2Plus1D_18_Weights.KINETICS400_V1.transforms()
    assert (KINETICS.mean, KINETICS.std) == (tuple(theirs.mean), tuple(theirs.std))


@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 0, 1)), ((0, 0), (1, 1)), ((float("nan"), 0, 0), (1, 1, 1))])
def test_impossible_statistics(mean: Any, std: Any) -> None:
    with pytest.raises(SettingError, match="three finite numbers each"):
        Normalisation(mean, std)


# --- Of weights ---


def test_published_tclr_gets_blue_green_red_from_0_to_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From its file, and from the converted file."""
    file = tclr_file(tmp_path)
    convert(Path(file), tmp_path / "tclr.safetensors", part="backbone")
    with caplog.at_level("INFO"):
        for path in (file, str(tmp_path / "tclr.safetensors")):
            caplog.clear()
            method = NearestNeighbours(tclr(path))
            assert colour(method.normalise(ORANGE)) == pytest.approx([0, 128 / 255, 1])
            assert len(said(caplog, "Clips are normalised as")) == 1
            assert not said(caplog, "assumed")


@pytest.mark.parametrize("classes", [400, 101])
def test_torchvisions_file_gets_its_statistics(classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A different number of classes means further training: preprocessing is then assumed, and reported."""
    file = torchvision_file(tmp_path, classes)
    with caplog.at_level("INFO"):
        backbone = VideoResNet("r3d_18", width=4, checkpoint=file)
    expected = KINETICS if classes == 400 else IMAGENET
    wanted = [(value - mean) / std for value, mean, std in zip((1, 128 / 255, 0), expected.mean, expected.std, strict=True)]
    assert colour(NearestNeighbours(backbone).normalise(ORANGE)) == pytest.approx(wanted, abs=1e-5)
    assert bool(said(caplog, "does not record its normalisation")) == (classes != 400)
    # The same for a complete classifier.
    method = Classification(VideoResNet("r3d_18", width=4), classes, init_from=file)
    assert method.backbone.normalisation == expected
    assert method.backbone.bn_eps == 1e-5


def test_s3d_of_torchvision(tmp_path: Path) -> None:
    torch.save(published.s3d().state_dict(), tmp_path / "s3d.pth")
    assert S3D(checkpoint=str(tmp_path / "s3d.pth")).normalisation == KINETICS


def test_a_setting_goes_before_the_weights_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tclr_file(tmp_path)
    with caplog.at_level("INFO"):
        backbone = VideoResNet("r2plus1d_18_tclr", 4, 1e-3, checkpoint=file, normalisation=IMAGENET)
    assert backbone.normalisation == IMAGENET
    assert len(said(caplog, "model.backbone.normalisation is mean (0.485, 0.456, 0.406)")) == 1
    assert len(said(caplog, "model.backbone.bn_eps is 0.001, though")) == 1


def test_eps_that_nobody_tells_is_assumed_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(tiny_cnn().state_dict(), tmp_path / "bare.pth")
    with caplog.at_level("INFO"):
        VideoResNet("r3d_18", width=4, checkpoint=str(tmp_path / "bare.pth"))
    assert len(said(caplog, "does not record the eps of its BatchNorm: 0.001 assumed")) == 1


def test_passport_beside_a_file(tmp_path: Path) -> None:
    save_file(tiny_vit().state_dict(), tmp_path / "vit.safetensors")
    convert(tmp_path / "vit.safetensors", tmp_path / "named.safetensors", heads=2, image_size=SIDE, num_frames=FRAMES)
    backbone = VideoViT(
        "micro", SIDE, FRAMES, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "named.safetensors")
    )
    assert backbone.normalisation == IMAGENET
    changed = read_passport(tmp_path / "named.safetensors") | {"normalisation": HALF.as_record()}
    torch.save(tiny_vit().state_dict(), tmp_path / "other.pth")
    (tmp_path / "other.json").write_text(json.dumps(changed))
    (tmp_path / "other.pth.json").write_text(json.dumps(changed))
    backbone = VideoViT("micro", SIDE, FRAMES, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "other.pth"))
    assert colour(backbone.preprocess(ORANGE)) == pytest.approx([1, 128 / 127.5 - 1, -1])


# --- Everything asks the backbone ---


METHODS: dict[str, Callable[[VideoResNet], Method]] = {
    "neighbours": NearestNeighbours,
    "classification": lambda backbone: Classification(backbone, 3, "linear"),
    "detection": lambda backbone: ActionDetection(backbone, 5),
    "counting": RepetitionCounting,
    "moco": lambda backbone: MoCo(backbone, CONTRAST, optim=SGD),
    "tubelets": lambda backbone: TubeletContrast(backbone, contrast=CONTRAST, optim=SGD),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_tasks_ask_the_backbone(name: str, tmp_path: Path) -> None:
    method = METHODS[name](tclr(tclr_file(tmp_path))).eval()
    assert colour(method.normalise(ORANGE)) == pytest.approx([0, 128 / 255, 1])
    batch: Any = video_batch(2)
    wanted = batch.stream("video").data[:, 0].flip(-1).permute(0, 4, 1, 2, 3) / 255
    if name != "counting":
        assert torch.allclose(method.embed(batch), method.backbone(wanted), atol=1e-6)
    else:
        outside = torch.tensor([[False] * 3 + [True], [False] * 4])
        prepared = method.prepare(batch.stream("video").data[:, 0], outside)  # type: ignore[operator]
        assert torch.allclose(prepared[1], wanted[1], atol=1e-6)
        # The mean of blue, green and red that it was trained with.
        assert not prepared[0, :, 3].any()


def test_no_place_keeps_statistics_of_its_own() -> None:
    """`Method.normalise` is not overridden, and mean values are in one file."""
    root = Path(__file__).parents[2]
    sources = [path for folder in ("modules", "datamodules", "callbacks") for path in (root / folder).rglob("*.py")]
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in sources}
    assert [name for name, text in texts.items() if "0.485" in text or "0.456" in text] == ["modules/core/preprocessing.py"]
    assert [name for name, text in texts.items() if "def normalise(self" in text] == ["modules/training/method.py"]


def test_encoder_of_locomotion_is_fed_alike_in_every_task() -> None:
    backbone = tiny_locomotion().backbone
    assert colour(NearestNeighbours(backbone).normalise(ORANGE)) == pytest.approx([1, 128 / 127.5 - 1, -1])
    assert colour(tiny_locomotion().normalise(ORANGE)) == pytest.approx([1, 128 / 127.5 - 1, -1])


@pytest.mark.parametrize("other", [HALF, BGR_TO_ONE])
def test_pixels_to_predict_and_pictures_do_not_depend_on_how_the_encoder_is_fed(other: Normalisation) -> None:
    methods = []
    for normalisation in (IMAGENET, other):
        torch.manual_seed(0)
        backbone = VideoViT("micro", SIDE, FRAMES, 8, embed_dim=32, depth=2, num_heads=2, normalisation=normalisation)
        methods.append(VideoMAE(backbone, PixelTarget(False), TubeMask(0.5), DecoderSettings(1), optim=OPTIM).eval())
    batch = video_batch(2)
    outputs = [method.step(batch, torch.Generator().manual_seed(0)) for method in methods]
    assert torch.allclose(outputs[0]["show"]["target"], outputs[1]["show"]["target"], atol=1e-5)
    assert not torch.allclose(outputs[0]["show"]["prediction"], outputs[1]["show"]["prediction"], atol=1e-3)
    outputs[1]["show"]["prediction"] = outputs[1]["show"]["target"]
    shown = methods[1].pictures(outputs[1])["reconstruction"].int()
    assert (shown - batch.stream("video").data[:, 0]).abs().max() <= 1


def test_towers_get_their_own_frames_whatever_the_encoder_gets() -> None:
    class Mean(torch.nn.Module):
        """Features are the mean colours of patches of 8 pixels."""

        weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, frames: Tensor) -> Tensor:
            return torch.nn.functional.avg_pool2d(frames, 8).flatten(2).transpose(1, 2)

    module = Mean()
    module.register_parameter("held", torch.nn.Parameter(torch.zeros(1)))
    target = TowerTarget(module, 3, SIDE, 8, normalise=False)
    grid = Grid(2, 4, 4, 2, 8)
    clip = video_batch(2).stream("video").data[:, 0]
    expected = target(IMAGENET.apply(clip), grid)
    for other in (HALF, BGR_TO_ONE):
        assert torch.allclose(target(other.apply(clip), grid, other), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vit_base_patch16_224.augreg_in21k", HALF), ("vit_base_patch16_224.dino", IMAGENET), ("vit_tiny_patch16_224", HALF)],
)
def test_timm_towers_have_timms_statistics(name: str, expected: Normalisation, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = torch.nn.Linear(1, 1)
    tower.embed_dim, tower.image_size, tower.patch_size = 4, 224, 16  # type: ignore[assignment]
    monkeypatch.setattr("modules.layers.targets.timm_tower", lambda *_: tower)
    assert TimmTarget(name).normalisation == expected


def test_cached_features_of_another_preprocessing_are_others() -> None:
    keys = set()
    for normalisation in (None, HALF):
        torch.manual_seed(0)
        keys.add(hash_network(VideoResNet("r3d_18", width=4, normalisation=normalisation)))
    assert len(keys) == 2


# --- From run to run ---


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    return lightning.Trainer(
        accelerator="cpu", devices=1, default_root_dir=folder, num_sanity_val_steps=0, use_distributed_sampler=False,
        max_steps=1, limit_val_batches=0, **quiet, **settings,
    )  # fmt: skip


def motion(frames: int = FRAMES, size: int = SIDE) -> SyntheticMotion:
    return SyntheticMotion(ClipSettings(frames=frames, size=size), 4, train_videos=8, val_videos=4)


def test_a_later_command_feeds_the_network_as_it_was_trained(tmp_path: Path) -> None:
    """`test --ckpt_path last` does not name the encoder's file again. Neither do `convert` and readers of its files."""
    first = Classification(tclr(tclr_file(tmp_path)), 13, "linear", optim=OPTIM)
    run = trainer(tmp_path)
    run.fit(first, datamodule=motion())
    run.save_checkpoint(tmp_path / "run.ckpt")
    later = Classification(tclr(None), 13, "linear", optim=OPTIM)
    assert later.backbone.normalisation == IMAGENET
    trainer(tmp_path).test(later, datamodule=motion(), ckpt_path=tmp_path / "run.ckpt", weights_only=True, verbose=False)
    convert(tmp_path / "run.ckpt", tmp_path / "run.safetensors", part="backbone")
    assert read_passport(tmp_path / "run.safetensors")["normalisation"] == BGR_TO_ONE.as_record()
    for backbone in (later.backbone, tclr(str(tmp_path / "run.ckpt")), tclr(str(tmp_path / "run.safetensors"))):
        assert backbone.normalisation == BGR_TO_ONE
        assert backbone.bn_eps == 1e-5


def test_folder_for_transformers_says_what_the_network_was_trained_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = VideoViT("micro", SIDE, FRAMES, 8, embed_dim=64, depth=1, num_heads=1, normalisation=HALF)
    run = trainer(tmp_path)
    run.fit(Classification(backbone, 13, optim=OPTIM), datamodule=motion())
    run.save_checkpoint(tmp_path / "run.ckpt")
    convert(tmp_path / "run.ckpt", tmp_path / "folder", "huggingface", heads=1, image_size=SIDE, num_frames=FRAMES)
    written = json.loads((tmp_path / "folder/preprocessor_config.json").read_text())
    assert (written["image_mean"], written["image_std"]) == ([0.5] * 3, [0.5] * 3)


def test_a_setting_of_the_command_line(tmp_path: Path) -> None:
    """It is kept in the run's config, so that the run can be repeated."""
    command = ["fit", f"--trainer.default_root_dir={tmp_path}"]
    command += ["--model", "VideoMAE", "--model.target", "PixelTarget", "--model.mask", "TubeMask", "--model.mask.ratio=0.5"]
    command += ["--model.backbone", "VideoViT", "--model.backbone.size=micro", f"--model.backbone.image_size={SIDE}"]
    command += [f"--model.backbone.num_frames={FRAMES}", "--model.backbone.patch_size=8", "--model.backbone.depth=1"]
    command += ["--model.backbone.normalisation.mean=[0,0,0]", "--model.backbone.normalisation.std=[1,1,1]"]
    command += ["--model.backbone.normalisation.channels=BGR", "--data", "SyntheticMotion", f"--data.clip.frames={FRAMES}"]
    command += [f"--data.clip.size={SIDE}", "--data.train_videos=4", "--data.batch_size=4", "--data.val_videos=4"]
    command += ["--model.optim.warmup_epochs=0", "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    command += ["--trainer.enable_progress_bar=false"]
    main(command)
    kept = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["record"]["backbone"]
    assert kept["normalisation"] == BGR_TO_ONE.as_record()
    again = ["fit", "--config", str(tmp_path / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'again'}"]
    main(again)
    kept = torch.load(tmp_path / "again/checkpoints/last.ckpt", weights_only=True)["record"]["backbone"]
    assert kept["normalisation"] == BGR_TO_ONE.as_record()


@pytest.mark.parametrize("build", [NearestNeighbours, lambda backbone: Classification(backbone, 13, optim=OPTIM)])
def test_encoder_of_locomotion_is_an_encoder_for_classes(build: Callable[[BEiTVideo], Method], tmp_path: Path) -> None:
    """Its weights can be exported from a LocoMotion run; all trainable weights are trained."""
    torch.manual_seed(0)
    source = tiny_locomotion()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "locomotion.ckpt")
    backbone = BEiTVideo(
        "micro", SIDE, FRAMES, 8, embed_dim=32, depth=2, num_heads=2, checkpoint=str(tmp_path / "locomotion.ckpt")
    )
    method = build(backbone)
    batch = video_batch(4)
    expected = source.eval().embed(batch)
    assert torch.allclose(method.eval().embed(batch), expected, atol=1e-5)
    if isinstance(method, Classification):
        method.train().step(batch, torch.Generator().manual_seed(0))["loss"].backward()
        without = [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]
        assert not without


def test_encoder_of_locomotion_by_name(tmp_path: Path) -> None:
    command = ["test", "--model", "NearestNeighbours", "--model.backbone", "BEiTVideo", "--model.backbone.size=micro"]
    command += [f"--model.backbone.image_size={SIDE}", f"--model.backbone.num_frames={FRAMES}", "--model.backbone.depth=1"]
    command += ["--data", "SyntheticMotion", f"--data.clip.frames={FRAMES}", f"--data.clip.size={SIDE}"]
    command += ["--data.train_videos=13", "--data.batch_size=13"]
    command += ["--data.val_videos=13", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    main([*command, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"])

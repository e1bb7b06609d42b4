"""The command `python main.py severe`."""

import io
import logging
import os
import signal
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

import callbacks  # noqa: F401  (makes their short names known to the experiments of mini-SEVERE)
from modules.backbones.cnn.c3d import C3D
from modules.backbones.cnn.caffenet import CaffeNet
from modules.backbones.cnn.clip_order import ClipOrderResNet
from modules.backbones.cnn.i3d import I3D
from modules.backbones.cnn.resnet import VideoResNet
from modules.backbones.cnn.resnet3d import ResNet3D
from modules.backbones.cnn.s3d import S3DG
from modules.backbones.frame_tower import FrameTower
from modules.backbones.vit.beit_video import BEiTVideo
from modules.backbones.vit.spacetime_vit import SpacetimeViT
from modules.backbones.vit.video_vit import VideoViT
from modules.backbones.vit.vjepa_vit import VJEPAViT
from modules.convert.load import Loaded, describe_backbone
from modules.core.errors import MAX_SEED, SettingError, check_writable
from modules.core.files import read_json, sha256, write_json, write_whole
from modules.embed.command import parse_shard
from modules.runs.cli import CLI
from modules.severe.experiments import ALL, Experiment, Preset, choose
from modules.severe.report import write_report
from modules.severe.results import all_results, differences, make_result, read_result, result_path, write_result
from modules.weights.files import weight_file

PROJECT = Path(__file__).parents[2]
VIT_CLIPS = {"num_frames": 16, "image_size": 224}
"""Clips of the preset `vit`, for encoders whose default is another."""
MINI_CLIPS = {"num_frames": 16, "image_size": 32}
"""Clips of the preset `mini`."""
EXPECTED = ("LightningCLI's args parameter is intended", r"Found \d+ module\(s\) in eval mode at the start of training")
"""Beginnings of warnings of Lightning about settings, and about frozen encoders, that are meant."""


def severe(
    checkpoint: Path,
    root: Path | None = None,
    out: Path | None = None,
    only: list[str] | None = None,
    preset: Preset | None = None,
    seeds: list[int] = [100],  # noqa: B006  (never mutated; shows the default in --help)
    layers: list[Path] = [],  # noqa: B006
    roots: dict[str, str] = {},  # noqa: B006
    shard: str = "1/1",
) -> None:
    """Run or resume SEVERE: fine-tune an encoder on each data set of the benchmark, and write the table of the results.

    Without --only, the eight experiments whose mean is SEVERE's score. Results are in OUT/results, a JSON for each experiment
    and seed; the report of all of them is OUT/report.md, report.html and report.png. What is finished is not repeated, and what
    was interrupted resumes. Data sets that are not there are named in the report, and without all eight there is no mean.

    With --preset mini, generated clips and a frozen encoder answer the same questions, without data sets, in minutes.

    Args:
        checkpoint: encoder, from any file or folder that convert reads.
        root: folder with a folder for each data set: ssv2, finegym, ucf101, ucfrep, charades, and for other experiments hmdb51,
            ntu60_videos, diving48, epic_kitchens, kinetics400, ava, activitynet.
        out: folder for runs, results and report; null takes runs/severe_<name of the checkpoint>.
        only: names of experiments; an unknown name prints the list.
        preset: recipe; cnn is the official one, vit that of VideoMAE, which is not verified for SEVERE; null takes that of the
            encoder. mini is for any encoder, and needs no data sets.
        seeds: each experiment is run with each of them; the official code uses 100.
        layers: further YAML files for every experiment, such as configs/trainer/one_gpu.yaml.
        roots: folders of data sets that are not below root, by the names above.
        shard: 2/4 does the second of four shares of the experiments; each share also writes the report of all that is there.

    Raises:
        SettingError: if a setting is impossible, the encoder cannot be used, or an experiment fails.
    """
    number, shares = parse_shard(shard)
    out = out or Path("runs") / f"severe_{checkpoint.stem}"
    check_writable("--out", out)
    if preset != "mini" and (root is None or not root.is_dir()):
        raise SettingError(
            f"--root is {root}, which is not a folder; pass the folder of the data sets, or --preset mini, which needs none."
        )
    known = sorted({one.folder for one in ALL.values() if one.folder})
    if unknown := sorted(roots.keys() - set(known)):
        raise SettingError(f"--roots names {', '.join(unknown)}; it takes {', '.join(known)}.")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= MAX_SEED for seed in seeds):
        raise SettingError(f"--seeds is {seeds}; pass different numbers from 0 to {MAX_SEED}, such as [100].")
    for path in layers:
        if not path.is_file():
            raise SettingError(f"--layers names {path}, which does not exist.")
    kind, backbone = backbone_settings(describe_backbone(checkpoint, setting="--checkpoint"), checkpoint, preset)
    if preset is not None and preset != kind:
        raise SettingError(f"--preset is {preset}, but {checkpoint} holds a {backbone['class_path']}; leave --preset out.")
    chosen = choose(only, kind)
    encoder = {"file": checkpoint.name, "sha256": sha256(weight_file(checkpoint, "--checkpoint")), **backbone}
    found = all_results(out, encoder["sha256"])
    folders = [data for one in chosen if (data := data_of(one, root, roots)) is not None]
    if not found and folders and not any(folder.is_dir() for folder in folders):
        raise SettingError(
            f"--root {root} contains none of the folders {', '.join(sorted({one.folder for one in chosen}))}; pass the folder "
            "that contains them, or name them with --roots."
        )
    layer = yaml.safe_dump({"model": {"init_args": {"backbone": backbone}}})
    write_whole(out / "encoder.yaml", lambda path: path.write_text(layer))
    tasks = [(one, seed) for one in chosen for seed in seeds][number - 1 :: shares]
    failed: list[str] = []
    for place, (one, seed) in enumerate(tasks, 1):
        job = {"encoder": encoder, "settings": settings_of(one, kind, layers), "seed": seed}
        data = data_of(one, root, roots)
        path = result_path(out, one, seed)
        if read_result(path, job) is not None:
            rank_zero_info(f"[{place}/{len(tasks)}] {one.title}, seed {seed}: finished before.")
        elif data is not None and not data.is_dir():
            rank_zero_info(f"[{place}/{len(tasks)}] {one.title}: no data, {data} is not there.")
        else:
            rank_zero_info(f"[{place}/{len(tasks)}] {one.title}, seed {seed}: runs in {run_folder(out, one, seed)}.")
            measured = run(one, kind, seed, data, checkpoint, out, layers, job)
            if measured is None:
                failed.append(f"{one.name} (seed {seed})")
            else:
                result = make_result(measured, one, kind, job)
                write_result(path, result)
                rank_zero_info(f"    {one.metric} {result['value']:.4g}")
    write_report(out, checkpoint.name, kind, chosen, seeds)
    rank_zero_info(f"Report: {out}/report.md, {out}/report.html and {out}/report.png.")
    if failed:
        raise SettingError(
            f"{', '.join(failed)} failed; see the messages above, complete the folders of data that they name, then run the "
            "same command to go on."
        )


def data_of(experiment: Experiment, root: Path | None, roots: dict[str, str]) -> Path | None:
    """Folder of the data of an experiment; None for generated clips."""
    if not experiment.folder or root is None:
        return None
    return Path(roots.get(experiment.folder, root / experiment.folder))


def backbone_settings(loaded: Loaded, checkpoint: Path, wanted: Preset | None = None) -> tuple[Preset, dict[str, Any]]:
    """The preset of an encoder, and the settings of its class and sizes as in YAML.

    Args:
        loaded: the encoder.
        checkpoint: where it is from.
        wanted: `mini` gives any encoder the settings for small clips.

    Raises:
        SettingError: if it is not an encoder of videos that can be fine-tuned.
    """
    network = loaded.network
    known = loaded.passport.get("architecture") or {}
    sizes: dict[str, Any]
    preset: Preset = "vit" if isinstance(network, VideoViT | BEiTVideo | FrameTower) else "cnn"
    if isinstance(network, VideoResNet | ClipOrderResNet):
        sizes = {"name": known["name"], "width": known["width"]}
    elif isinstance(network, C3D | ResNet3D):
        sizes = {"width": known["width"]}
    elif isinstance(network, CaffeNet):
        sizes = {name: known[name] for name in ("width", "norm", "stem", "encoding", "window") if name in known}
    elif isinstance(network, I3D | S3DG):
        sizes = {"width_factor": known["width_factor"]}
    elif isinstance(network, VideoViT):
        grid = network.grid
        sizes = {"patch_size": grid.patch, "tubelet_size": grid.tubelet, "mlp_ratio": network.mlp_ratio}
        sizes |= {"embed_dim": network.embed_dim, "depth": len(network.blocks), "num_heads": network.num_heads}
        if isinstance(network, SpacetimeViT):
            sizes |= {"learned": network.learned, "class_token": network.prefix_tokens == 1}
        elif isinstance(network, VJEPAViT):
            sizes["codes"] = network.code_kind
        elif network.cosine_attention:
            sizes["cosine_attention"] = True
    elif isinstance(network, FrameTower):
        # The mean over frames forgets their order, which some experiments ask for.
        sizes = network.sizes() | VIT_CLIPS | {"pooling": "time"}
    elif isinstance(network, BEiTVideo):
        heads = network.blocks[0].attn.num_heads  # type: ignore[union-attr]
        sizes = {"patch_size": network.grid.patch, "embed_dim": network.embed_dim, "depth": len(network.blocks)}
        sizes |= {"num_heads": heads, **VIT_CLIPS}
    else:
        raise SettingError(
            f"--checkpoint {checkpoint} holds a {type(network).__name__}, but SEVERE fine-tunes encoders of videos; pass one."
        )
    if wanted == "mini":
        sizes |= MINI_CLIPS if preset == "vit" else {}
        if isinstance(network, VideoViT):
            # The mean over time does not tell a motion from its reverse.
            sizes["pooling"] = "time"
        preset = "mini"
    return preset, {"class_path": type(network).__name__, "init_args": sizes}


def settings_of(experiment: Experiment, preset: Preset, layers: list[Path]) -> dict[str, Any]:
    """What decides about an experiment besides encoder, data and seed: options, and hashes of the YAML files."""
    files = [*recipe_files(experiment, preset), *layers]
    return {"files": {path.name: sha256(path) for path in files}, "options": list(experiment.options)}


def recipe_files(experiment: Experiment, preset: Preset) -> list[Path]:
    """The YAML files of an experiment."""
    return [PROJECT / "configs" / f"{name}.yaml" for name in experiment.files[preset]]


def run_folder(out: Path, experiment: Experiment, seed: int) -> Path:
    """Folder of a run."""
    return out / "runs" / experiment.name / f"seed{seed}"


def run(
    experiment: Experiment,
    preset: Preset,
    seed: int,
    data: Path | None,
    checkpoint: Path,
    out: Path,
    layers: list[Path],
    job: dict[str, Any],
) -> dict[str, Any] | None:
    """Fine-tune and test, from where an earlier run was interrupted: small experiments in this process, others in their own.

    Returns:
        What the run measured; None if it failed.

    Raises:
        SettingError: if what is there is of another job.
    """
    folder = run_folder(out, experiment, seed)
    if before := read_json(folder / "job.json"):
        if changed := differences(before, job):
            raise SettingError(f"{folder} holds a run with another {changed}; pass another --out, or remove the folder.")
    else:
        write_whole(folder / "job.json", lambda path: write_json(path, job))
    if (found := last_result(folder)) is not None:
        return found
    files = [*recipe_files(experiment, preset), out / "encoder.yaml", *layers]
    # The batches of the recipes are those of one device; a layer may set more.
    words = ["--trainer.devices=1", *(word for path in files for word in ("--config", str(path)))]
    words += [
        *experiment.options,
        *([f"--data.root={data}"] if data is not None else []),
        *([f"--data.folder={out / 'features'}"] if experiment.is_cached else []),
        f"--model.backbone.checkpoint={checkpoint}",
        f"--seed_everything={seed}",
        f"--trainer.default_root_dir={folder}",
    ]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        words.append("--ckpt_path=last")
    # A small experiment takes no longer than the imports of a new process.
    done = call_here(words) if preset == "mini" else call([sys.executable, str(PROJECT / "main.py"), "fit", *words]) == 0
    return last_result(folder) if done else None


def last_result(folder: Path) -> dict[str, Any] | None:
    """What the last test of a run measured; None if there was none."""
    files = sorted((folder / "results").glob("*-[0-9][0-9][0-9].json"))
    return read_json(files[-1]) if files else None


def call_here(words: list[str]) -> bool:
    """Fit in this process, without its messages; whether it succeeded. What is wrong is printed, and other experiments run."""
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message)
            logging.disable(logging.INFO)
            CLI(args=["fit", *words])
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    finally:
        logging.disable(logging.NOTSET)
    return True


def call(command: list[str]) -> int:
    """Run a command and pass on the signals that end this process, so that the run saves where it is.

    Raises:
        KeyboardInterrupt: after Ctrl-C, as soon as the run has ended.
        SystemExit: after SIGTERM, as soon as the run has ended.
    """
    process = subprocess.Popen(command)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the run, too.
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        os._exit(128 + signal.SIGTERM)
    if code in (-signal.SIGINT, 128 + signal.SIGINT):
        raise KeyboardInterrupt
    return code

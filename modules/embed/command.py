"""The command `python main.py embed`."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from datamodules.lists.manifest import Manifest
from datamodules.video.crops import Centre
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.convert.load import Loaded, describe_backbone
from modules.core.errors import SettingError, check_positive, check_whole, check_writable, given
from modules.core.files import read_json, sha256, write_json, write_whole
from modules.embed.files import Parts, Steps, write_collection
from modules.embed.windows import Lengths, Read, Windows, make_items, videos_of
from modules.weights.files import weight_file

What = Literal["pooled", "slices", "tokens"]
PART_ITEMS = 32
"""Items of a part: what a killed command has to read again at most, for each process."""
USUAL_STRIDE = 4


def embed(
    checkpoint: Path,
    source: Path,
    out: Path,
    every: float | None = None,
    clips: int = 1,
    what: What = "pooled",
    root: Path | None = None,
    frames: int | None = None,
    size: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    num_workers: int = 4,
    device: str = "auto",
    bf16: bool = False,
    store: Literal["float16", "float32"] = "float16",
    shard: str = "1/1",
    overwrite: bool = False,
) -> None:
    """Write features of videos by any encoder: OUT.safetensors, OUT.csv for --data FeatureSequences, and a passport OUT.json.

    A killed command resumes when run again. Videos that cannot be read are listed in OUT.bad.tsv and are not in the
    collection. --data FeatureSequences --data.root DIR reads DIR/train.csv, or OUT.csv with --data.lists.train OUT.csv.

    Args:
        checkpoint: whatever convert reads: a checkpoint or .safetensors of ours, an official file, a folder of transformers.
        source: folder of videos, with its sub-folders, which are taken for classes; or a list with rows 'path label'.
        out: name of the collection, without suffix.
        every: seconds; gives a sequence of features for each video, one from the middle of each window of that length. Clips
            that are longer than that reach beyond their windows.
        clips: clips that are spread over each video, where there are no windows; several give a sequence.
        what: pooled features; those of each time slice; or all tokens of the encoder.
        root: folder that relative paths of a list start from; null takes the list's folder.
        frames: frames per clip; null takes those of the encoder's training.
        size: side of the clips in pixels; null takes that of the encoder's training, or 224 if not recorded.
        stride: frames of the video from one frame of a clip to the next; null takes that of the encoder's training, or 4 if not
            recorded.
        batch_size: clips that go through the encoder at once.
        num_workers: processes that decode.
        device: auto, cpu, cuda or cuda:1 and so on.
        bf16: compute in bfloat16, which is faster on a GPU and less exact.
        store: type of the numbers in the file.
        shard: 2/4 does the second of four shares; the process that finishes last writes the collection.
        overwrite: replace a collection that is there.

    Raises:
        SettingError: if a setting is impossible, or weights or videos cannot be read.
    """
    check_whole("--", 1, clips=clips, batch_size=batch_size)
    check_whole("--", 0, num_workers=num_workers)
    check_positive("--", **given(every=every, frames=frames, size=size, stride=stride))
    if every is not None and clips > 1:
        raise SettingError("--every gives one clip per window and --clips spreads clips over the video; pass only one of them.")
    number, shares = parse_shard(shard)
    out = out.with_suffix("") if out.suffix == ".safetensors" else out
    check_writable("--out", out.parent)
    manifest = videos_of(source, root)
    loaded = describe_backbone(checkpoint, frames, size, setting="--checkpoint")
    if loaded.network.kind != "video":
        raise SettingError(f"--checkpoint {checkpoint} is an encoder of {loaded.network.kind}, but embed reads videos.")
    network = loaded.network.to(choose_device(device)).requires_grad_(False)
    stride = stride or loaded.stride or USUAL_STRIDE
    clip = ClipSettings(frames=loaded.frames, size=loaded.size or 224, clips=clips, sampler=Dense(stride), crop=Centre())
    job = {
        "encoder": sha256(weight_file(checkpoint, "--checkpoint")),
        "videos": manifest.sha256(),
        "clip": [clip.frames, clip.size, stride, clips],
        "every": every,
        "what": what,
        "batch_size": batch_size,
        "numbers": ["bfloat16" if bf16 else "float32", store],
    }
    if (before := read_json(out.with_name(f"{out.name}.json"))) and not overwrite:
        if before.get("job") != json.loads(json.dumps(job)):
            raise SettingError(
                f"--out: {out}.safetensors is of another job; pass another name, or --overwrite true to replace it."
            )
        rank_zero_info(f"{out}.safetensors is there already, of the same videos, encoder and settings.")
        return
    seconds = None
    if every is not None:
        seconds, rates = lengths(manifest, out, job, num_workers)
        longer = (clip.frames - 1) * stride + 1 > every * rates
        if longer.any():
            rank_zero_info(
                f"In {longer.sum()} of {len(manifest)} videos clips are longer than {every:g} s: neighbouring windows share "
                "frames, and all features of a video shorter than a clip are equal; a smaller --stride or a larger --every "
                "avoids it."
            )
    items = make_items(manifest, seconds, every)
    parts = Parts(out, job, -(-len(items) // PART_ITEMS))
    mine = [part for part in parts.missing() if part % shares == number - 1]
    done = parts.count - len(parts.missing())
    rank_zero_info(
        f"{len(manifest)} videos, clips of {clip.frames} frames of {clip.size} px with a stride of {stride}"
        + (f"; {done} of {parts.count} parts are there already." if done else ".")
    )
    wanted = [place for part in mine for place in range(part * PART_ITEMS, min(len(items), (part + 1) * PART_ITEMS))]
    ahead = 4 if num_workers else None
    read = Subset(Windows(manifest, items, clip), wanted)
    loader: Any = DataLoader(read, batch_size=None, num_workers=num_workers, prefetch_factor=ahead)
    reads = iter(tqdm(loader, unit="clip" if every is None else "window", disable=None))
    for part in mine:
        own = list(islice(reads, min(PART_ITEMS, len(items) - part * PART_ITEMS)))
        parts.write(part, encode(network, own, what, batch_size, bf16, store))
    if not parts.folder.is_dir():  # another share was the last, and wrote the collection
        return
    if parts.missing():
        rank_zero_info(f"{len(parts.missing())} of {parts.count} parts are still to be made, by other shares.")
        return
    steps = parts.read()
    passport = passport_of_features(loaded, checkpoint, job) | {"root": str(manifest.root.absolute())}
    count = write_collection(out, steps, manifest, passport, sequences=every is not None or clips > 1 or what != "pooled")
    parts.remove()
    bad = f"; {len(steps.faults)} could not be read, see {out.name}.bad.tsv" if steps.faults else ""
    rank_zero_info(f"Wrote features of {count} videos to {out}.safetensors, with {out.name}.csv and {out.name}.json{bad}.")


def parse_shard(text: str) -> tuple[int, int]:
    """Number and count of the shares in '2/4'.

    Raises:
        SettingError: if it is of another form.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SettingError(f"--shard is {text}; it must be like 2/4, from 1/4 to 4/4.")
    return int(number), int(count)


def choose_device(name: str) -> torch.device:
    """The device of a name.

    Raises:
        SettingError: if there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, AttributeError, NotImplementedError) as error:
        raise SettingError(f"--device is {name}, which is not here ({str(error).splitlines()[0]}); pass cpu.") from error
    return device


def lengths(manifest: Manifest, out: Path, job: dict[str, Any], num_workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and frames per second of all videos, NaN of those that cannot be read; float64 [N]. They are looked up once."""
    file = out.with_name(f"{out.name}.parts") / "lengths.json"
    known = read_json(file)
    if known.get("videos") != job["videos"] or "rates" not in known:
        looks: Any = DataLoader(Lengths(manifest), batch_size=None, num_workers=num_workers)
        found = [(float(seconds), float(rate)) for seconds, rate in tqdm(looks, desc="Lengths", disable=None)]
        known = {"videos": job["videos"], "seconds": [one[0] for one in found], "rates": [one[1] for one in found]}
        write_whole(file, lambda path: write_json(path, known))
    return np.array(known["seconds"], np.float64), np.array(known["rates"], np.float64)


@torch.inference_mode()
def encode(network: Any, reads: list[Read], what: What, batch_size: int, bf16: bool, store: str) -> Steps:
    """Features of what workers read, in batches that only depend on the items.

    Args:
        network: encoder, on its device.
        reads: items.
        what: see `embed`.
        batch_size: clips at once.
        bf16: compute in bfloat16.
        store: type of the numbers.
    """
    found = [one for one in reads if one.clips is not None]
    device = next(network.parameters()).device
    clips = [one.clips for one in found if one.clips is not None]
    features = []
    for batch in _batches(clips, batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            made = steps_of(network, network.preprocess(batch.to(device, non_blocking=True)), what)
        features.append(made.to("cpu", getattr(torch, store)))
    faults = {one.row: one.reason for one in reads if one.clips is None}
    if not features:
        return Steps(torch.zeros(0, 0), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), faults)
    feature = torch.cat(features)
    time, row = torch.cat([one.time for one in found]), torch.tensor([one.row for one in found for _ in one.time])
    steps = feature.shape[1]
    if what == "slices":
        # Slices divide the time of their clip evenly.
        ends = time[:, :1] + (time[:, 1:] - time[:, :1]) * torch.linspace(0, 1, steps + 1)
        time = torch.stack([ends[:, :-1], ends[:, 1:]], -1)
    else:
        time = time[:, None].expand(-1, steps, -1)
    return Steps(feature.flatten(0, 1), time.reshape(-1, 2).contiguous(), row.repeat_interleave(steps), faults)


def _batches(clips: list[Tensor], batch_size: int) -> Iterator[Tensor]:
    """All clips [v, T, H, W, 3] of a list in batches."""
    singles = (clip for several in clips for clip in several)
    while batch := list(islice(singles, batch_size)):
        yield torch.stack(batch)


def steps_of(network: Any, video: Tensor, what: What) -> Tensor:
    """Features of clips, one or several for each.

    Args:
        network: encoder.
        video: float [B, 3, T, H, W], of `preprocess`.
        what: pooled, those of each time slice, or all.

    Returns:
        float32 [B, S, D]

    Raises:
        SettingError: if the network has no time slices.
    """
    if what == "pooled":
        pooled: Tensor = network(video).float()
        return pooled[:, None]
    features: Tensor = network.forward_features(video).float()
    if features.ndim == 5:
        flat = features.permute(0, 2, 3, 4, 1)
        return flat.mean((2, 3)) if what == "slices" else flat.flatten(1, 3)
    if what == "tokens":
        return features
    if not hasattr(network, "grid"):
        raise SettingError(f"--what slices needs an encoder with time slices; a {type(network).__name__} has none.")
    slices = network.grid.t if not hasattr(network, "clip_grid") else network.clip_grid(video).t
    return features.unflatten(1, (slices, -1)).mean(2)


def passport_of_features(loaded: Loaded, checkpoint: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What made the features: encoder, its hash, preprocessing and sampling."""
    frames, size, stride, clips = job["clip"]
    crop = {"size": size, "crop": "centre"}
    about = {name: loaded.passport.get(name) for name in ("method", "architecture", "source")}
    normalisation = getattr(loaded.network, "normalisation", None)
    return {
        "format": "lightning-video-ssl features, version 1",
        "encoder": {"file": checkpoint.name, "sha256": job["encoder"], "network": type(loaded.network).__name__, **about},
        "preprocessing": crop | {"normalisation": normalisation.as_record() if normalisation is not None else None},
        "sampling": {"frames": frames, "stride": stride, "clips": clips, "every": job["every"]},
        "job": job,
    }

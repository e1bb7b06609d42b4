"""The command `python main.py embed`."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from datamodules.video.crops import Centre
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from modules.convert.load import Loaded, describe_backbone
from modules.core.errors import SettingError, check_positive, check_whole, check_writable, given
from modules.core.files import read_json, sha256, write_json, write_whole
from modules.embed.encode import PART_ITEMS, What, Work, choose_devices, make_parts, make_parts_on
from modules.embed.files import Parts, write_collection, writing
from modules.embed.reading import Reader, Samples, read_all
from modules.embed.source import Split, open_data, rows_of, videos_of
from modules.embed.windows import Lengths, Videos, Windows, make_items
from modules.weights.files import weight_file

USUAL_SIZE, USUAL_STRIDE = 224, 4


def embed(
    checkpoint: Path,
    out: Path,
    source: Path | None = None,
    data: LightningDataModule | None = None,
    split: Split | None = None,
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
    devices: int = 1,
    bf16: bool = False,
    store: Literal["float16", "float32"] = "float16",
    shard: str = "1/1",
    overwrite: bool = False,
) -> None:
    """Write features of recordings by any encoder: OUT.safetensors, OUT.csv for --data FeatureSequences, and a passport OUT.json.

    Recordings are videos of a folder or list (--source), or the samples of a data set (--data NTU60 --data.root DIR), which may
    be of another kind if the encoder is: skeletons, depth, signals. Sizes, preprocessing and sampling are those of the encoder's
    training.

    A command that was killed goes on where it was, and writes the same bytes. What cannot be read is listed in OUT.bad.tsv and
    is not in the collection. --data FeatureSequences --data.root DIR reads DIR/train.csv, or OUT.csv with
    --data.lists.train OUT.csv.

    Args:
        checkpoint: whatever convert reads: a checkpoint or .safetensors of ours, an official file, a folder of transformers; or
            hf://owner/name or hf://owner/name/file on the Hugging Face Hub.
        out: name of the collection, without suffix.
        source: folder of videos, with its sub-folders, which are taken for classes; or a list with rows 'path label'.
        data: a data set in the place of --source, by name, with its settings. --data.help NAME lists them.
        split: of the data set: train (the default), val or test, with the clips of evaluation.
        every: seconds; gives a sequence of features for each video, one from the middle of each window of that length. Clips
            that are longer than that reach beyond their windows.
        clips: clips that are spread over each recording, where there are no windows; several give a sequence.
        what: pooled features; those of each time slice; or all tokens of the encoder.
        root: folder that relative paths of a list start from; null takes the list's folder.
        frames: frames per clip; null takes those of the encoder's training.
        size: side of the clips in pixels, likewise; 224 where nobody noted it.
        stride: frames of the video from one frame of a clip to the next, likewise; 4 where nobody noted it.
        batch_size: clips that go through the encoder at once.
        num_workers: processes that read, for each device.
        device: auto, cpu, cuda or cuda:1 and so on.
        devices: GPUs that share the work, each with a process of its own; on a CPU, processes.
        bf16: compute in bfloat16, which is faster on a GPU and less exact.
        store: type of the numbers in the file.
        shard: 2/4 does the second of four shares, for several machines; the one that finishes last writes the collection.
        overwrite: replace a collection that is there.

    Raises:
        SettingError: if a setting is impossible, or weights or recordings cannot be read.
    """
    check_whole("--", 1, clips=clips, batch_size=batch_size, devices=devices)
    check_whole("--", 0, num_workers=num_workers)
    check_positive("--", **given(every=every))
    check_whole("--", 1, **given(frames=frames, size=size, stride=stride))
    if (source is None) == (data is None):
        raise SettingError("Pass either --source, a folder or list of videos, or --data, a data set by name.")
    if split is not None and data is None:
        raise SettingError("--split is for --data; pass the folder of a split as --source.")
    if every is not None and clips > 1:
        raise SettingError("--every gives one clip per window and --clips spreads clips over the video; pass only one of them.")
    number, shares = parse_shard(shard)
    found_devices = choose_devices(device, devices)
    out = out.with_suffix("") if out.suffix == ".safetensors" else out
    check_writable("--out", out.parent)
    manifest = videos_of(source, root) if source is not None else None
    loaded = describe_backbone(checkpoint, frames, size, setting="--checkpoint")
    clip, samples, facts = usual_clip(loaded, stride, clips), None, None
    if data is not None:
        samples = open_data(data, split or "train", loaded.network.kind, known_clip(loaded, frames, stride, clips), num_workers)
        if type(samples.dataset) is VideoClipDataset:
            manifest, facts = samples.dataset.manifest, samples.dataset.facts
        else:
            clip = samples.clip
    if manifest is not None and loaded.network.kind != "video":
        raise SettingError(
            f"--checkpoint {checkpoint} is an encoder of {loaded.network.kind}, but --source has videos; pass --data instead."
        )
    if manifest is None and every is not None:
        raise SettingError(
            f"--every cuts whole videos into windows, which --data {type(data).__name__} does not read; leave it out."
        )
    rows = rows_of(manifest) if manifest is not None else samples.rows
    sampler = getattr(clip, "sampler", None)
    job = {
        "encoder": sha256(weight_file(checkpoint, "--checkpoint")),
        "videos": rows.sha256,
        "clip": [clip.frames, getattr(clip, "size", None), getattr(sampler, "stride", None), clips],
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
        rank_zero_info(f"{out}.safetensors is there already, of the same recordings, encoder and settings.")
        return
    parts = Parts(out, job)
    if manifest is None:
        reader: Reader = Samples(samples)
    else:
        videos = Videos(manifest, num_workers, facts)
        seconds = None if every is None else lengths(videos, every, clip, parts, num_workers)
        reader = Windows(videos, make_items(len(manifest), seconds, every), clip)
    count = -(-len(reader) // PART_ITEMS)
    missing = parts.missing(count)
    of = f" of {type(data).__name__}" if data is not None else ""
    rank_zero_info(
        f"{len(rows.columns['path'])} recordings{of}, {describe(job['clip'])}"
        + (f"; {count - len(missing)} of {count} parts are there already." if len(missing) < count else ".")
    )
    mine = [part for part in missing if part % shares == number - 1]
    unit = "clip" if every is None else "window"
    work = Work(checkpoint, frames, size, reader, parts, what, batch_size, bf16, store, num_workers, unit)
    if devices > 1:
        make_parts_on(work, mine, found_devices)
    else:
        make_parts(work, mine, loaded.network.to(found_devices[0]).requires_grad_(False))
    with parts.alone() as still_there:
        if not still_there:  # another share was the last, and wrote the collection
            return
        if missing := parts.missing(count):
            rank_zero_info(f"{len(missing)} of {count} parts are still to be made, by other shares.")
            return
        steps = parts.read(count)
        passport = passport_of_features(loaded, checkpoint, job)
        passport |= {"root": str(rows.root) if rows.root is not None else None}
        passport |= {"data": type(data).__name__, "split": split or "train"} if data is not None else {}
        is_sequence = every is not None or clips > 1 or what != "pooled"
        written = write_collection(out, steps, rows, passport, is_sequence)
        parts.remove()
    bad = f"; {len(steps.faults)} could not be read, see {out.name}.bad.tsv" if steps.faults else ""
    rank_zero_info(
        f"Wrote features of {written} recordings to {out}.safetensors, with {out.name}.csv and {out.name}.json{bad}."
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Number and count of the shares in '2/4'.

    Raises:
        SettingError: if it is of another form.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SettingError(f"--shard is {text}; it must be like 2/4, from 1/4 to 4/4.")
    return int(number), int(count)


def usual_clip(loaded: Loaded, stride: int | None, clips: int) -> ClipSettings:
    """Clips of videos as in the encoder's training, and as usual where nobody noted that."""
    sampler = Dense(stride or loaded.stride or USUAL_STRIDE)
    return ClipSettings(frames=loaded.frames, size=loaded.size or USUAL_SIZE, clips=clips, sampler=sampler, crop=Centre())


def known_clip(loaded: Loaded, frames: int | None, stride: int | None, clips: int) -> dict[str, Any]:
    """What is known of clips of the encoder's training, or was asked for; the rest is up to the data set."""
    stride = stride or loaded.stride
    known = given(
        frames=frames or getattr(loaded.network, "num_frames", None) or loaded.passport.get("frames"),
        size=loaded.size,
        sampler=Dense(stride) if stride is not None else None,
    )
    return known | {"clips": clips, "repeat": 1, "crop": Centre()}


def describe(clip: list[int | None]) -> str:
    """Frames, size and stride of clips in words, as far as they have them."""
    frames, size, stride, _ = clip
    return f"clips of {frames} frames" + (f" of {size} px with a stride of {stride}" if size is not None else "")


def lengths(videos: Videos, every: float, clip: ClipSettings, parts: Parts, num_workers: int) -> np.ndarray:
    """Seconds of all videos, float64 [N], NaN of those that cannot be read. They are looked up once, by one process."""
    file = parts.folder / "lengths.json"
    with parts.alone():
        known = read_json(file)
        if "rates" not in known:
            reader = Lengths(videos)
            found = list(tqdm(read_all(reader, [*range(len(reader))], num_workers), "Lengths", len(reader), disable=None))
            known = {"seconds": [one[0] for one in found], "rates": [one[1] for one in found]}
            with writing(parts.out):
                write_whole(file, lambda path: write_json(path, known))
    longer = (clip.frames - 1) * clip.sampler.stride + 1 > every * np.array(known["rates"], np.float64)
    if longer.any():
        rank_zero_info(
            f"In {longer.sum()} of {len(longer)} videos clips are longer than {every:g} s: neighbouring windows share "
            "frames, and all features of a video shorter than a clip are equal; a smaller --stride or a larger --every "
            "avoids it."
        )
    return np.array(known["seconds"], np.float64)


def passport_of_features(loaded: Loaded, checkpoint: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What made the features: encoder, its hash, preprocessing and sampling."""
    frames, size, stride, clips = job["clip"]
    about = {name: loaded.passport.get(name) for name in ("method", "architecture", "source")}
    normalisation = getattr(loaded.network, "normalisation", None)
    crop = {"size": size, "crop": "centre"} if size is not None else {}
    return {
        "format": "lightning-video-ssl features, version 1",
        "encoder": {"file": checkpoint.name, "sha256": job["encoder"], "network": type(loaded.network).__name__, **about},
        "preprocessing": crop | {"normalisation": normalisation.as_record() if normalisation is not None else None},
        "sampling": {"frames": frames, "stride": stride, "clips": clips, "every": job["every"]},
        "job": job,
    }

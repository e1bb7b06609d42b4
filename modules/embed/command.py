"""The command `python main.py embed`."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from datamodules.prepare.parallel import core_count
from datamodules.skeleton.clips import SkeletonClipSettings
from datamodules.video.dataset import VideoClipDataset
from datamodules.video.samplers import Dense, Sampler
from datamodules.video.sampling import ClipSettings
from modules.convert.load import Loaded, describe_backbone
from modules.core.errors import SettingError, check_positive, check_whole, check_writable, given
from modules.core.files import read_json, sha256, write_json, write_whole
from modules.embed.encode import What, Work, choose_devices, make_parts, make_parts_on
from modules.embed.files import Parts, remove_rest, write_collection, writing
from modules.embed.reading import Reader, Samples, read_all
from modules.embed.sampling import known_clip, signal_of, usual_clip
from modules.embed.source import FromData, Rows, Split, open_data, rows_of, videos_of
from modules.embed.windows import Lengths, Videos, Windows, make_items
from modules.weights.files import weight_file


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
    num_workers: int | None = None,
    device: str = "auto",
    devices: int = 1,
    bf16: bool = False,
    store: Literal["float16", "float32"] = "float16",
    shard: str = "1/1",
    overwrite: bool = False,
) -> None:
    """Write features of recordings from any encoder: OUT.safetensors, OUT.csv and a passport OUT.json.

    Recordings are the videos of a folder or list (--source), or the samples of a data set (--data NTU60 --data.root DIR), which
    may also be skeletons, depth or signals if the encoder takes them. Sizes, preprocessing and sampling are those of the
    encoder's training.

    A killed command resumes when run again, and writes the same bytes. Recordings that cannot be read are listed in OUT.bad.tsv
    and are not in the collection. --data FeatureSequences --data.root DIR reads DIR/train.csv, or OUT.csv with
    --data.lists.train OUT.csv.

    Args:
        checkpoint: any input of convert: our checkpoints or .safetensors, an official file, a folder of transformers; or
            hf://owner/name or hf://owner/name/file on the Hugging Face Hub.
        out: name of the collection, without suffix.
        source: folder of videos, whose sub-folders are classes; or a list with rows 'path label'.
        data: a data set instead of --source, by name, with its settings; --data.help NAME lists them. Its clips are those
            of the encoder's training, except for settings in --data.clip. Set how files of streams are read with
            --data.streams.
        split: split of the data set: train (the default), val or test, with evaluation clips.
        every: length of windows in seconds; gives a sequence of features per video, one from the middle of each window. Clips
            that are longer than a window extend beyond it.
        clips: number of clips spread over each recording, without --every; several clips give a sequence.
        what: pooled features, features of each time slice, or all tokens of the encoder.
        root: folder that relative paths of a list are relative to; null takes the list's folder.
        frames: frames per clip; null takes those of the encoder's training.
        size: side of the clips in pixels; null takes that of the encoder's training, or 224 if not recorded.
        stride: distance in video frames between consecutive frames of a clip; null takes that of the encoder's training, or 4
            if not recorded.
        batch_size: clips per batch of the encoder.
        num_workers: reading processes per device; null takes four, or the number of cores if there are fewer.
        device: auto, cpu, cuda, or a device such as cuda:1.
        devices: number of GPUs that share the work, each with its own process; on a CPU, number of processes.
        bf16: compute in bfloat16, which is faster on a GPU and less precise.
        store: data type of the features in the file.
        shard: 2/4 computes the second of four parts, for several machines; the last one to finish writes the collection.
        overwrite: replace an existing collection.

    Raises:
        SettingError: if a setting is invalid, or weights or recordings cannot be read.
    """
    check_whole("--", 1, clips=clips, batch_size=batch_size, devices=devices)
    num_workers = min(4, core_count()) if num_workers is None else num_workers
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
    network: Any = loaded.network
    if manifest is not None:
        found = Opened(rows_of(manifest), usual_clip(loaded, stride, clips), Videos(manifest, num_workers), None)
    else:
        assert data is not None
        known, signal = known_clip(loaded, frames, stride, clips), signal_of(loaded)
        found = opened(open_data(data, split or "train", network.kind, known, signal, num_workers), num_workers)
    clip = found.clip
    if found.videos is not None and network.kind != "video":
        raise SettingError(f"--checkpoint {checkpoint} is an encoder of {network.kind}, not of videos; pass other --data.")
    if found.videos is None and every is not None:
        raise SettingError(f"--every is for video files, which --data {type(data).__name__} does not read here; leave it out.")
    shape = [clip.frames, getattr(clip, "size", None), str(found.sampler) if found.sampler is not None else None, clip.clips]
    for setting, asked, used in (("size", size, shape[1]), ("stride", stride, shape[2])):
        if asked is not None and used is None:
            raise SettingError(f"--{setting} is {asked}, which --data {type(data).__name__} does not take; leave it out.")
    job = {
        "encoder": sha256(weight_file(checkpoint, "--checkpoint")),
        "videos": found.rows.sha256,
        "root": str(found.rows.root) if found.rows.root is not None else None,
        "reading": [repr(clip), repr(getattr(data, "stream_settings", None))],
        "clip": shape,
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
        rank_zero_info(f"{out}.safetensors is there already, with the same recordings, encoder and settings.")
        remove_rest(out, job)
        return
    parts = Parts(out, job)
    if found.videos is not None:
        assert isinstance(clip, ClipSettings)
        seconds = None if every is None else lengths(found.videos, every, clip, parts, num_workers)
        reader: Reader = Windows(found.videos, make_items(len(found.videos.manifest), seconds, every), clip)
    else:
        assert found.samples is not None
        reader = Samples(found.samples)
    unit = "clip" if every is None else "window"
    work = Work(checkpoint, frames, size, reader, parts, what, batch_size, bf16, store, num_workers, unit)
    count, missing = work.num_parts, parts.missing(work.num_parts)
    of = f" of {type(data).__name__}" if data is not None else ""
    rank_zero_info(
        f"{len(found.rows.columns['path'])} recordings{of}, {describe(shape)}"
        + (f"; {count - len(missing)} of {count} parts are there already." if len(missing) < count else ".")
    )
    mine = [part for part in missing if part % shares == number - 1]
    if min(devices, len(mine)) > 1:
        make_parts_on(work, mine, found_devices[: len(mine)])
    else:
        make_parts(work, mine, network.to(found_devices[0]).requires_grad_(False))
    with parts.alone() as still_there:
        if not still_there:  # another process finished last, and wrote the collection
            return
        if missing := parts.missing(count):
            rank_zero_info(f"{len(missing)} of {count} parts are still to be made, by other shares.")
            return
        steps = parts.read(count)
        passport = passport_of_features(loaded, checkpoint, found.sampler, str(getattr(clip, "crop", None)), job)
        passport |= {"root": str(found.rows.root) if found.rows.root is not None else None}
        passport |= {"data": type(data).__name__, "split": split or "train"} if data is not None else {}
        is_sequence = every is not None or clip.clips > 1 or what != "pooled"
        written = write_collection(out, steps, found.rows, passport, is_sequence)
        parts.remove()
    bad = f"; {len(steps.faults)} could not be read, see {out.name}.bad.tsv" if steps.faults else ""
    rank_zero_info(f"Wrote features of {written} recordings to {out}.safetensors, with its .csv and .json{bad}.")


def parse_shard(text: str) -> tuple[int, int]:
    """Parse '2/4' into the index and number of parts.

    Raises:
        SettingError: if it has another format.
    """
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SettingError(f"--shard is {text}; it must be like 2/4, from 1/4 to 4/4.")
    return int(number), int(count)


class Opened(NamedTuple):
    """The recordings to embed."""

    rows: Rows
    clip: ClipSettings | SkeletonClipSettings
    videos: Videos | None
    """the videos, if they are plain video files"""
    samples: FromData | None
    """where not"""

    @property
    def sampler(self) -> Sampler | None:
        """Sampler of the frames of files; None for generated clips and skeletons."""
        is_sampled = self.samples is None or isinstance(self.samples.dataset, VideoClipDataset)
        return self.clip.sampler if is_sampled and isinstance(self.clip, ClipSettings) else None


def opened(found: FromData, num_workers: int) -> Opened:
    """Open a split of a data set; if it only consists of video files, windows of them can be read, too."""
    dataset = found.dataset
    if type(dataset) is not VideoClipDataset:
        return Opened(found.rows, found.clip, None, found)
    return Opened(rows_of(dataset.manifest), found.clip, Videos(dataset.manifest, num_workers, dataset.facts), None)


def describe(clip: list[Any]) -> str:
    """Text about frames, size and sampler of clips, if they have them."""
    frames, size, sampler, _ = clip
    in_pixels = f" of {size} px" if size is not None else ""
    return f"clips of {frames} frames{in_pixels}" + (f" by {sampler}" if sampler is not None else "")


def lengths(videos: Videos, every: float, clip: ClipSettings, parts: Parts, num_workers: int) -> np.ndarray:
    """Seconds of all videos, float64 [N], NaN if unreadable. They are looked up once, by one process."""
    file = parts.folder / "lengths.json"
    with parts.alone():
        known = read_json(file)
        if "rates" not in known:
            reader = Lengths(videos)
            found = list(tqdm(read_all(reader, [*range(len(reader))], num_workers), "Lengths", len(reader), disable=None))
            known = {"seconds": [one[0] for one in found], "rates": [one[1] for one in found]}
            with writing(parts.out):
                write_whole(file, lambda path: write_json(path, known))
    stride = clip.sampler.stride if isinstance(clip.sampler, Dense) else 1
    longer = (clip.frames - 1) * stride + 1 > every * np.array(known["rates"], np.float64)
    if longer.any():
        rank_zero_info(
            f"In {longer.sum()} of {len(longer)} videos clips are longer than {every:g} s: neighbouring windows share "
            "frames, and all features of a video shorter than a clip are equal; a smaller --stride or a larger --every "
            "avoids it."
        )
    return np.array(known["seconds"], np.float64)


def passport_of_features(
    loaded: Loaded, checkpoint: Path, sampler: Sampler | None, crop: str, job: dict[str, Any]
) -> dict[str, Any]:
    """Passport of the features: encoder, its hash, preprocessing and sampling.

    Args:
        loaded: the encoder.
        checkpoint: file or name that it was loaded from.
        sampler: sampler of the frames of files; None without files.
        crop: crop of training; evaluation uses the centre.
        job: job of the command.
    """
    frames, size, _, clips = job["clip"]
    about = {name: loaded.passport.get(name) for name in ("method", "architecture", "source")}
    normalisation = getattr(loaded.network, "normalisation", None)
    cropped = {"size": size, "crop": crop} if size is not None else {}
    stride = sampler.stride if isinstance(sampler, Dense) else None
    other = {"sampler": str(sampler)} if sampler is not None and stride is None else {}
    return {
        "format": "lightning-video-ssl features, version 1",
        "encoder": {"file": checkpoint.name, "sha256": job["encoder"], "network": type(loaded.network).__name__, **about},
        "preprocessing": cropped | {"normalisation": normalisation.as_record() if normalisation is not None else None},
        "sampling": {"frames": frames, "stride": stride, "clips": clips, "every": job["every"]} | other,
        "job": job,
    }

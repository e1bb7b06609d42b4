"""Writes generated motion to video files: the command `main.py synthesise`."""

import json
from fractions import Fraction
from pathlib import Path

import av
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.generated.motion import check_backgrounds, check_frames
from datamodules.prepare.reencode import SAME_BYTES
from modules.core.errors import MAX_SEED, SettingError, check_whole, check_writable
from modules.scenes.backgrounds import Background
from modules.scenes.captioned import CaptionSettings, Stage, captioned_clips
from modules.scenes.classes import MOTION_CLASSES
from modules.scenes.objects import make_clips


def write_videos(
    out: Path,
    train_videos: int = 200,
    val_videos: int = 50,
    frames: int = 32,
    size: int = 128,
    fps: int = 12,
    backgrounds: list[Background] = ["texture"],  # noqa: B006  (never mutated; shows the default in --help)
    seed: int = 0,
    captions: bool = False,
    classes: list[str] | None = None,
) -> None:
    """Write clips of moving objects as mp4 files, in a folder that VideoFolder reads.

    Args:
        out: folder to write to: <out>/train/<motion class>/<number>.mp4 and <out>/val/... With captions, without
            classes: <out>/train/<number>.mp4, <out>/val/... and <out>/captions.jsonl.
        train_videos: number of training videos.
        val_videos: number of validation videos, with other objects and backgrounds.
        frames: frames per video.
        size: side in pixels; even, as required by video codecs.
        fps: frames per second.
        backgrounds: kinds of background, equally frequent: black, noise, gradient, texture.
        seed: random seed of the clips.
        captions: write captioned motion, up to three consecutive motions or two objects at a time, with one JSON object per
            line and clip: video, caption, signature (its meaning, independent of wording), objects, and clauses with their
            fraction of the clip's time.
        classes: names of the motions to write, such as [right, left]; null writes all. Captioned motion has none.
    """
    check_writable("--out", out)
    check_whole("--", 1, train_videos=train_videos, fps=fps)
    check_whole("--", 0, val_videos=val_videos)
    check_whole("--", 0, MAX_SEED, seed=seed)
    if size % 2 or size < 16:
        raise SettingError(f"size is {size}; video codecs need an even number of at least 16.")
    check_frames("--frames", frames)
    check_backgrounds("--backgrounds", backgrounds)
    if "images" in backgrounds:
        raise SettingError("--backgrounds has 'images', which this command does not support; remove it.")
    known = [motion.name for motion in MOTION_CLASSES]
    if captions and classes is not None:
        raise SettingError("--captions true writes motion without classes; leave out --classes.")
    if classes is not None and (not classes or len(set(classes)) < len(classes) or not set(classes) <= set(known)):
        raise SettingError(f"--classes is {classes}; name some of {', '.join(known)}, each once.")
    stages = [
        (Stage(frames, size, "train", seed, backgrounds), train_videos),
        (Stage(frames, size, "val", seed, backgrounds), val_videos),
    ]
    if captions:
        _write_captioned(out, stages, fps)
    else:
        _write_classes(out, stages, fps, [known.index(name) for name in classes or known])
    rank_zero_info(f"Wrote {train_videos} training and {val_videos} validation videos to {out}.")


def _write_classes(out: Path, stages: list[tuple[Stage, int]], fps: int, classes: list[int]) -> None:
    """Videos in folders of their class."""
    for stage, count in stages:
        clips = make_clips(count, stage.frames, stage.size, stage.split, stage.seed, stage.backgrounds, classes=classes)
        for number, motion in enumerate(clips.motion.tolist()):
            path = out / stage.split / MOTION_CLASSES[motion].name / f"{number:05d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, clips.video[number], fps)


def _write_captioned(out: Path, stages: list[tuple[Stage, int]], fps: int) -> None:
    """Videos, and a file with one line per video."""
    lines = []
    for stage, count in stages:
        made = captioned_clips(count, stage, CaptionSettings())
        (out / stage.split).mkdir(parents=True, exist_ok=True)
        for number, (caption, names) in enumerate(zip(made.captions, made.names, strict=True)):
            video = f"{stage.split}/{number:05d}.mp4"
            write_video(out / video, made.video[number], fps)
            clauses = [
                {"says": clause.signature(), "objects": clause.objects, "time": [round(moment, 4) for moment in clause.span]}
                for clause in caption.clauses
            ]
            about = {"video": video, "caption": caption.text, "signature": caption.signature}
            lines.append(json.dumps({**about, "objects": [name.full() for name in names], "clauses": clauses}))
    (out / "captions.jsonl").write_text("".join(f"{line}\n" for line in lines))


def write_video(path: Path, video: Tensor, fps: int, crf: int = 16, container: str | None = None) -> None:
    """Write one clip as h264 with a key frame every 16 frames. The same clip always gives the same bytes.

    Args:
        path: file to write.
        video: uint8 [T, H, W, 3], sides even.
        fps: frames per second.
        crf: quality of the encoder; lower is better, 0 loses only colour resolution.
        container: format of the file, such as mp4; None takes that of its suffix.
    """
    options = {"crf": str(crf), "g": "16", "x264-params": SAME_BYTES}
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = video.shape[1], video.shape[2], "yuv420p"
        for frame in video.numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())

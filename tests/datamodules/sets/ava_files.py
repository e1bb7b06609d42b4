"""A small AVA: two training films and two others, with lists of the official forms and made-up content."""

from pathlib import Path

from datamodules import AVA
from datamodules.sets.ava import FilmSettings
from datamodules.settings import ReadSettings
from datamodules.video.crops import Square
from datamodules.video.samplers import Dense
from datamodules.video.sampling import ClipSettings
from tests.datamodules.video_files import write_video

FILM_START = 903.0
"""The files begin here, so that second 904 is one second after their beginning."""
CLIP = ClipSettings(frames=4, sampler=Dense(2), size=32, crop=Square((0.7, 0.9)))
TRAIN = """\
Ab.C-1,0904,0.077,0.151,0.283,0.811,80,1
Ab.C-1,0904,0.5,0.1,0.9,0.9,1,2
Ab.C-1,0904,0.077,0.151,0.283,0.811,12,1
Ab.C-1,0905,0.1,0.2,0.9,0.9,7,2
train2,0904,0.2,0.2,0.8,0.8,7,1
train2,0905,0.2,0.2,0.8,0.8,7,1
train2,0901,0.2,0.2,0.8,0.8,7,1
"""
TRAIN_DETECTED = """\
Ab.C-1,0904,0.3,0.3,0.6,0.6,,0.97
Ab.C-1,0904,0.4,0.3,0.6,0.6,3,0.5
Ab.C-1,0904,0.077,0.151,0.283,0.811,79,0.9
"""
VAL = """\
val1,0904,0.1,0.1,0.5,0.9,7,1
val1,0904,0.1,0.1,0.5,0.9,80,1
val1,0904,0.6,0.1,0.9,0.9,2,2
val1,0905,0.1,0.1,0.5,0.9,7,1
val2,0904,0.1,0.1,0.5,0.9,7,1
val2,0905,0.1,0.1,0.5,0.9,7,1
"""
VAL_DETECTED = """\
val1,0904,0.61,0.1,0.9,0.9,,0.91
val1,0904,0.1,0.1,0.5,0.88,,0.99
val1,0905,0.1,0.12,0.5,0.9,,0.95
val2,0904,0.1,0.1,0.5,0.9,,0.3
val2,0905,0.1,0.1,0.5,0.9,,0.99
"""
ACTIONS = """\
item {
  name: "bend/bow (at the waist)"
  id: 1
}
label {
  name: "crouch \\"low\\""
  label_id: 2
  label_type: PERSON_MOVEMENT
}
item { name: "jump" id: 7 }
"""


def write_ava(root: Path) -> Path:
    """Films of 3 s and their lists."""
    root.mkdir(parents=True, exist_ok=True)
    first = write_video(root / "Ab.C-1.mkv", frames=75)
    for name in ("train2", "val1", "val2"):
        (root / f"{name}.mkv").hardlink_to(first)
    for name, text in (
        ("ava_train_v2.2.csv", TRAIN),
        ("ava_val_v2.2.csv", VAL),
        ("ava_val_excluded_timestamps_v2.2.csv", "val2,0905\n"),
        ("ava_action_list_v2.2_for_activitynet_2019.pbtxt", ACTIONS),
        ("person_box_67091280_iou90/ava_detection_train_boxes_and_labels_include_negative_v2.2.csv", TRAIN_DETECTED),
        ("person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv", VAL_DETECTED),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def small_ava(root: Path, **settings: object) -> AVA:
    """That data at the size of tests."""
    small = {"clip": CLIP, "batch_size": 2, "reading": ReadSettings(0), "films": FilmSettings(FILM_START), "seed": 1}
    return AVA(str(root), **(small | settings))  # type: ignore[arg-type]

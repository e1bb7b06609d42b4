"""Settings that had another name before: what a configuration of then is told."""

RENAMED: dict[str, str] = {
    "data.num_workers": "data.reading.num_workers",
    "data.decoder": "data.reading.decoder",
    "data.decode_timeout": "data.reading.decode_timeout",
    "data.max_bad_fraction": "data.reading.max_bad_fraction",
    "data.fraction": "data.subset.fraction",
    "data.low_shot": "data.subset.low_shot",
    "data.per_class": "data.subset.per_class",
    "data.subset_seed": "data.subset.seed",
    "data.train_list": "data.lists.train",
    "data.val_list": "data.lists.val",
    "data.test_list": "data.lists.test",
    "data.lists": "data.lists.folder",
    "data.train_boxes": "data.boxes.train",
    "data.val_boxes": "data.boxes.val",
    "data.min_score": "data.boxes.min_score",
    "data.part": "data.benchmark",
    "data.backgrounds": "data.scene.backgrounds",
    "data.background_folder": "data.scene.background_folder",
    "data.objects": "data.scene.objects",
    "data.object_size": "data.scene.object_size",
    "data.distractors": "data.scene.distractors",
    "data.ground": "data.scene.ground",
}
"""Old name -> new name, as on the command line, without the dashes."""

"""Reading weights together with the metadata about their origin."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from modules.backbones.vit.vjepa_vit import read_table
from modules.core.files import sha256
from modules.core.preprocessing import IMAGENET, Origin
from modules.weights.files import read_checkpoint, weight_file
from modules.weights.huggingface_config import class_names_of, norm_pix_loss_of, read_config
from modules.weights.licence import licence_note, licence_of
from modules.weights.names.huggingface import is_transformers
from modules.weights.names.spacetime import DECODER_HEADS, is_spacetime
from modules.weights.names.vindlu import is_video_text
from modules.weights.names.vjepa import is_vjepa, table_of
from modules.weights.origin import origin_of
from modules.weights.passport import passport_of
from modules.weights.run_config import config_text, facts_of_run, inside, norm_pix_loss_of_run, parse_config
from modules.weights.sizes import Facts


class Source(NamedTuple):
    """Content of a weight file, with metadata."""

    path: Path
    weights: dict[str, Tensor]
    """weights under the file's own names"""
    passport: dict[str, Any]
    """known facts about the origin of the weights: method, config, metrics, source"""
    facts: Facts
    kind: str | None
    """kind of network according to the file's passport"""
    origin: Origin
    """known facts about the input of its network"""
    kept: dict[str, Any]
    """facts that a run stored about its encoder (`facts` of the encoder); empty for other files"""


def read_source(source: Path, run_config: Path | None, setting: str = "--source") -> Source:
    """Read weights, and the metadata in and next to the file; errors name the setting."""
    path = weight_file(source, setting)
    checkpoint = read_checkpoint(path, setting)
    earlier = passport_of(source) or {}
    config = config_text(path, run_config, checkpoint.record) or earlier.get("config")
    settings = parse_config(config) if config is not None else {}
    facts = {name: value for name, value in inside(earlier, "architecture").items() if type(value) is int}
    for ours, theirs in (("num_frames", "frames"), ("stride", "stride")):
        if isinstance(earlier.get(theirs), int):
            facts.setdefault(ours, earlier[theirs])
    origin = origin_of(path, checkpoint)
    # Only checkpoints of runs record the clips of pretraining separately from those of the network.
    kept = inside(checkpoint.record, "backbone")
    clips = ("pretrained_frames", "pretrained_size", "num_frames", "image_size")
    facts |= {name: kept[name] for name in clips if type(kept.get(name)) is int}
    norm_pix_loss = earlier.get("norm_pix_loss")
    # A given config overrides the passport. The config in a passport does not, since options may have corrected it.
    if run_config is None:
        facts = facts_of_run(settings) | facts
        norm_pix_loss = norm_pix_loss_of_run(settings) if norm_pix_loss is None else norm_pix_loss
    else:
        facts |= facts_of_run(settings)
        norm_pix_loss = norm_pix_loss_of_run(settings)
    class_names = checkpoint.record.get("class_names") or earlier.get("class_names")
    if is_transformers(checkpoint.weights) and not is_video_text(checkpoint.weights):
        beside = path.parent / "config.json"
        facts |= read_config(beside, setting)
        class_names = class_names_of(beside) or class_names
        # If it is missing, transformers means true, whereas in a file with a passport of this project it is unknown.
        norm_pix_loss = norm_pix_loss_of(beside, default=norm_pix_loss if earlier else True)
    if "normlize_target" in checkpoint.args:  # the spelling of the official scripts
        norm_pix_loss = bool(checkpoint.args["normlize_target"])
    for key, value in checkpoint.weights.items():
        if value.ndim == 5 and "patch_embed" in key:
            facts |= {"tubelet_size": value.shape[2], "patch_size": value.shape[4]}
    table = table_of(checkpoint.weights) if is_vjepa(checkpoint.weights) else None
    slices, side = (None if table is None else read_table(table)[1]) or (None, None)
    if slices is not None and side is not None:
        facts |= {"num_frames": slices * facts["tubelet_size"], "image_size": side * facts["patch_size"]}
    if is_spacetime(checkpoint.weights):
        facts = {"decoder_heads": DECODER_HEADS} | facts
    passport = {
        # All entries of an earlier passport are kept, except for the kind of network, which follows from the weights.
        **{name: value for name, value in earlier.items() if name != "kind"},
        "method": checkpoint.record.get("method") or earlier.get("method") or inside(settings, "model").get("class_path"),
        "config": config,
        "metrics": checkpoint.record.get("metrics") or earlier.get("metrics"),
        "source": {"file": path.name, "sha256": sha256(path), "made_from": earlier.get("source")},
        "normalisation": (origin.normalisation or IMAGENET).as_record(),
        "class_names": class_names,
        "norm_pix_loss": norm_pix_loss,
        "license": licence_of(path, earlier, settings),
        "license_note": earlier.get("license_note") if earlier else licence_note(checkpoint.weights),
    }
    return Source(path, checkpoint.weights, passport, facts, earlier.get("kind"), origin, kept)


def setting_of(source: Source, name: str) -> Any:
    """A setting of the backbone that weights do not tell: of the run, or of an earlier passport; None where they do not say."""
    config = source.passport["config"]
    run = inside(parse_config(config) if config is not None else {}, "model", "init_args", "backbone", "init_args")
    places = (source.kept, inside(source.passport, "architecture"), run)
    return next((place[name] for place in places if place.get(name) is not None), None)

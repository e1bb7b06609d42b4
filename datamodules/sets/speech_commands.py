"""SpeechCommands v2: 35 words; each clip is one word and at most one second long."""

from typing import ClassVar

from datamodules.base import VideoDataModule
from datamodules.lists.files import read_lines
from datamodules.lists.folders import SOUND_SUFFIXES
from datamodules.lists.manifest import Manifest
from datamodules.lists.official import by_place, found_manifest
from modules.core.batch import Kind
from modules.core.errors import SettingError

NOISE = "_background_noise_"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}


class SpeechCommands(VideoDataModule):
    """SpeechCommands v2, all 35 words, from `<word>/<speaker>_nohash_<number>.wav`.

    Reads validation_list.txt and testing_list.txt; all other clips are for training, except the folder of background noise.
    Labels are indices in the sorted list of words. Set `streams.sound.seconds` to 1: shorter clips are padded.
    """

    needed = ("train", "val", "test")
    lists_taken = ()
    offers: ClassVar[dict[str, Kind]] = {"audio": "audio"}
    gives = ("audio",)

    def read_official(self, split: str) -> Manifest | None:
        """See `VideoDataModule.read_official`."""
        listed = {name: self._listed(name) for name in LISTS.values()}
        existing = {place: file for place, file in by_place(self.root, SOUND_SUFFIXES).items() if not place.startswith(NOISE)}
        words = sorted({place.partition("/")[0] for place in existing})
        number = {word: label for label, word in enumerate(words)}
        held_out = {place for places in listed.values() for place in places}
        chosen = listed[LISTS[split]] if split in LISTS else sorted(existing.keys() - held_out)
        rows = []
        for place in chosen:
            word = place.partition("/")[0]
            if word not in number:
                raise SettingError(f"{LISTS[split]} has clips of the word {word}, but {self.root} has no such folder.")
            rows.append((place, number[word]))
        return found_manifest(self.root, rows, existing, self.root / LISTS.get(split, ""), words, ".wav")

    def _listed(self, name: str) -> list[str]:
        """The clips of a list, `word/name`."""
        path = self.find_list(name)
        if path is None:
            raise self.lacks(name)
        return [line.strip().removesuffix(".wav") for line in read_lines(path).values()]

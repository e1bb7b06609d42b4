"""What methods learn from real motion: the depth of UTD-MHAD, 27 actions by 8 people.

    python benchmarks/real_motion.py --utd DIR                       # the search of all methods
    python benchmarks/real_motion.py videomae --utd DIR              # of one
    python benchmarks/real_motion.py --stage report                  # the page of what was found

`search` trains every trial of a method on subjects 1, 3, 5 and measures it on subject 7: at most 100 minutes of one process for
a method. The best trial is the one with the highest mean of linear and attentive probe. What is in `trials.csv` of --results is
not repeated. Measurements on the test subjects 2, 4, 6, 8 are not part of this script yet.
"""

import signal
import sys
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.real.data import decode, prepare
from benchmarks.real.methods import BUDGET, SPECS
from benchmarks.real.report import write_report
from benchmarks.real.run import search
from modules.core.errors import SettingError, check_range

RESULTS = Path(__file__).parent / "real_motion"


def real_motion(
    methods: list[str] = [],  # noqa: B006  (never mutated; shows the default in --help)
    stage: Literal["search", "report"] = "search",
    utd: Path = Path("data/utd_mhad"),
    drones: Path | None = None,
    work: Path = Path("runs/real_motion"),
    results: Path = RESULTS,
    processes: int = 2,
) -> None:
    """Search settings, or write the page of what was found.

    Args:
        methods: rows by their keys; none takes all.
        stage: what to do.
        utd: folder of UTD-MHAD.
        drones: folder of the drone clips; null leaves out trials that use them.
        work: folder of decoded clips and trained networks, which can be made again.
        results: folder of the files of results, and of the page.
        processes: rows at once, with one thread each; 0 runs them in this process.

    Raises:
        SettingError: if a setting is impossible, results have other settings, or rows failed.
    """
    check_range("real_motion", 0, processes=processes)
    if unknown := sorted(set(methods) - SPECS.keys()):
        raise SettingError(f"There is no method {', '.join(unknown)}; choose from {', '.join(SPECS)}.")
    if stage == "report":
        titles = {key: (spec.title, next(iter(spec.trials.values())).kind) for key, spec in SPECS.items()}
        write_report(results / "page.md", results, titles, BUDGET)
        return
    chosen = [key for key in SPECS if not methods or key in methods]
    decode(utd, "xsub_settings", work)
    prepare(work, drones)
    failed = search(chosen, work, results, processes)
    if failed:
        raise SettingError(f"{'; '.join(failed)} failed; see the messages above, then run the same command to go on.")


if __name__ == "__main__":
    # SIGTERM ends it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        parser = ArgumentParser(description=__doc__)
        parser.add_argument("methods", nargs="*", default=[], help=f"rows: {', '.join(SPECS)}; none takes all")
        parser.add_function_arguments(real_motion, skip={"methods"})
        real_motion(**parser.instantiate_classes(parser.parse_args()).as_dict())
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")
    except SettingError as error:
        sys.exit(f"error: {error}")

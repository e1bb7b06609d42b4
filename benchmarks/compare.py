"""Every method of the project at one small size and equal budget, side by side: mini-SEVERE and the depth of UTD-MHAD.

    python benchmarks/compare.py --utd DIR                          # about an hour on two CPU cores
    python benchmarks/compare.py --methods [videomae] --only [samples_5] --page null      # only to see it run

Each row is pretrained by `main.py fit` with benchmarks/compare/common.yaml and its own YAML file there. It is evaluated by
`main.py severe --preset mini`, and with frozen features on the depth clips of UTD-MHAD. What is finished is in JSON files below
--out and is not repeated; what was interrupted resumes. The page and its picture are made from these files alone.
"""

import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch
from jsonargparse import auto_cli

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.studies.compare_page import read_results, write_page
from benchmarks.studies.compare_rows import FailedError, Job, Processes, jobs_of, machine, pretrain, severe
from benchmarks.studies.compare_utd import clips_of, utd_mhad
from modules.core.errors import SettingError, check_positive
from modules.core.files import read_json, write_json, write_whole

PAGE = Path(__file__).parents[1] / "docs/severe.md"


def compare(
    out: Path = Path("runs/compare"),
    utd: Path | None = None,
    methods: list[str] | None = None,
    seeds: int = 1,
    only: list[str] | None = None,
    page: Path | None = PAGE,
    processes: int = 2,
    settings: list[str] = [],  # noqa: B006  (never mutated; shows the default in --help)
) -> None:
    """Pretrain and evaluate all rows, and write the page.

    Args:
        out: folder for runs and results.
        utd: folder of UTD-MHAD; null leaves its columns empty.
        methods: rows by the names of their YAML files; null takes all.
        seeds: of trained rows; untrained networks have three at least.
        only: experiments of mini-SEVERE; null takes all.
        page: Markdown file to fill; its picture is next to it. Null writes none.
        processes: rows at once; each gets an equal share of the cores.
        settings: further settings of pretraining, such as [--trainer.max_epochs=1].

    Raises:
        SettingError: if a setting is impossible, or rows failed.
    """
    check_positive("compare", seeds=seeds, processes=processes)
    jobs = jobs_of(methods, seeds, out)
    start, about = time.perf_counter(), machine(processes)
    torch.set_num_threads(about["threads"])
    clips = clips_of(utd, out / "utd_mhad.pt") if utd is not None else None
    if clips is None:
        print("UTD-MHAD: left out, because --utd is not set.", flush=True)
    run = Processes(about["threads"])
    before = read_json(out / "run.json").get("minutes", 0.0)
    failed = []

    def measure(job: Job) -> None:
        pretrain(job, run, settings)
        if clips is not None:
            utd_mhad(job, clips)
        severe(job, run, only)

    with ThreadPoolExecutor(processes) as pool:
        try:
            running: dict[Future[None], Job] = {pool.submit(measure, job): job for job in jobs}
            for done in as_completed(running):
                minutes = before + (time.perf_counter() - start) / 60
                write_whole(out / "run.json", partial(write_json, content=about | {"minutes": round(minutes, 1)}))
                error = done.exception()
                if error is not None:
                    failed.append(str(running[done]))
                said = "done" if error is None else f"failed: {type(error).__name__}: {error}"
                print(f"{running[done]}: {said} ({minutes:.0f} min)", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            run.stop()
            raise
    if page is not None:
        write_page(page, read_results(out))
        print(f"Written: {page} and {page.with_suffix('.png')}.")
    if failed:
        raise SettingError(f"{'; '.join(failed)} failed; see the messages above, then run the same command to go on.")


if __name__ == "__main__":
    # SIGTERM ends it like Ctrl-C: commands save where they are.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        auto_cli(compare, as_positional=False)
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on.")
    except (SettingError, FailedError) as error:
        sys.exit(f"error: {error}")

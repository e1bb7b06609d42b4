"""The stages of the benchmark `real_motion`: what is to be done, and how one trial is measured."""

import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.real.data import Labelled, load, shown
from benchmarks.real.measured import ranked, read_trials
from benchmarks.real.methods import SPECS
from benchmarks.real.networks import Network, frozen, slices
from benchmarks.real.protocols import AttentiveProbe, Features, attentive, best_penalty, knn, linear
from benchmarks.real.recipes import Pretrained, Recipe
from benchmarks.real.store import settings_text, trial_store
from benchmarks.studies.jobs import CALIBRATION_SEED, run_pending
from callbacks.collapse import rankme
from modules.core.errors import SettingError


class Trial(NamedTuple):
    """A trial of the search."""

    method: str
    trial: str
    work: Path
    results: Path

    @property
    def name(self) -> str:
        """What is printed when it is done."""
        return f"{self.method}, {self.trial}"

    @property
    def recipe(self) -> Recipe:
        """Its settings."""
        return SPECS[self.method].trials[self.trial]

    @property
    def settings(self) -> str:
        """Its settings as they are in the file."""
        return settings_text(self.recipe, next(iter(SPECS[self.method].trials.values())))


def features_of(network: Network, known: Labelled, new: Labelled) -> Features:
    """Frozen tokens of the clips that probes see."""
    return Features(frozen(network, shown(known.video)), known.label, frozen(network, shown(new.video)), new.label)


def pooled(found: Features) -> Features:
    """The readout of tokens."""
    return found._replace(known=slices(found.known), new=slices(found.new))


def run_trial(job: Trial) -> None:
    """Pretrain with the settings of a trial, measure on subject 7, and add a row to the file."""
    start, data, recipe = time.perf_counter(), load(job.work, "xsub_settings"), job.recipe
    trained = recipe.train(data, CALIBRATION_SEED)
    tokens = features_of(trained.network, data.train, data.test)
    found = pooled(tokens)
    row = {
        "method": job.method,
        "trial": job.trial,
        "settings": job.settings,
        "seed": CALIBRATION_SEED,
        "network": recipe.kind,
        "steps": recipe.steps if trained.losses else 0,
        "linear": linear(found, best_penalty(found)),
        "attentive": attentive(tokens, AttentiveProbe(), CALIBRATION_SEED),
        "knn": knn(found),
        "first_loss": trained.losses[0] if trained.losses else "",
        "last_loss": trained.losses[-1] if trained.losses else "",
        "rank": float(rankme(found.known)),
        "seconds": time.perf_counter() - start,
    }
    trial_store(job.results).add([row])
    scores = ", ".join(f"{name} {row[name]:.1f}" for name in ("linear", "attentive", "knn"))
    print(f"{job.name}: {scores}, {row['seconds']:.0f} s", flush=True)


def pending_trials(methods: list[str], work: Path, results: Path) -> list[Trial]:
    """Trials without a row; without the drone clips, those that need them are left out.

    Raises:
        SettingError: if a row was made with other settings.
    """
    before = {(row["method"], row["trial"]): row["settings"] for row in trial_store(results).rows()}
    todo = []
    for method in methods:
        for name in SPECS[method].trials:
            job = Trial(method, name, work, results)
            known = before.get((method, name))
            if known is None:
                if isinstance(job.recipe, Pretrained) and job.recipe.drones and not (work / "drones.pt").is_file():
                    print(f"{job.name}: left out, because --drones is not set.", flush=True)
                else:
                    todo.append(job)
            elif known != job.settings:
                raise SettingError(
                    f"{results / 'trials.csv'}: {job.name} was made with other settings; remove that row, or pass another "
                    "--results."
                )
    return todo


def best_trial(method: str, results: Path) -> str:
    """The trial with the highest mean of the linear and the attentive probe on subject 7; of equal ones, the first in the file.

    This rule was fixed before any run.

    Raises:
        SettingError: if the search of the method is not complete.
    """
    path = results / "trials.csv"
    found = ranked(read_trials(path) if path.is_file() else [], method)
    done = {trial.trial for trial in found}
    if missing := [name for name in SPECS[method].trials if name not in done]:
        raise SettingError(f"The search of {method} lacks {', '.join(missing)}; run it with --stage search first.")
    return found[0].trial


def search(methods: list[str], work: Path, results: Path, processes: int) -> list[str]:
    """Run the trials that have no row; returns the names of those that failed."""
    return run_pending(pending_trials(methods, work, results), run_trial, processes)

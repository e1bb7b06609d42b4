"""Rows of the benchmark `real_motion` and the trials of their search, fixed before any run.

Cost: the ViT's blocks have 0.44 M parameters, so one of the 288 tokens of a clip costs 1.3 MFLOP with its attention, and three
times as much in training. A step of 32 clips takes 36 GFLOP with all tokens, and about 12 with three quarters of them hidden
and a decoder of one block; one core does some 50 GFLOP/s.
"""

from typing import NamedTuple

from benchmarks.real.recipes import Masked, Recipe, Sigma, Smile

BUDGET = 100
"""Minutes of a process with one thread that the search of a method may take; see the trials' lengths."""


class Spec(NamedTuple):
    """A row.

    Args:
        title: its name for readers.
        trials: settings that the search tries, by name. The first one is the base that others are compared with.
    """

    title: str
    trials: dict[str, Recipe]


SPECS: dict[str, Spec] = {
    "videomae": Spec(
        "VideoMAE",
        {
            "normalised": Masked(),
            "plain": Masked(target="plain"),
            "differences": Masked(target="differences"),
            "deviations": Masked(target="deviations"),
            "half": Masked(ratio=0.5),
            "most": Masked(ratio=0.9),
            "random": Masked(mask="random"),
            "slow": Masked(rate=2.5e-4),
            "fast": Masked(rate=4e-3),
            "scaled": Masked(scale=0.6),
            "windows": Masked(span=20),
            "generated": Masked(generated=0.5),
            "drones": Masked(drones=0.5),
            "long": Masked(steps=2000),
            "long differences": Masked(target="differences", steps=2000),
        },
    ),
    "smile": Spec(
        "SMILE, pixels",
        {
            "normalised": Smile(),
            "plain": Smile(target="plain"),
            "differences": Smile(target="differences"),
            "deviations": Smile(target="deviations"),
            "half": Smile(ratio=0.5),
            "most": Smile(ratio=0.9),
            "slow": Smile(rate=2.5e-4),
            "fast": Smile(rate=4e-3),
            "scaled": Smile(scale=0.6),
            "windows": Smile(span=20),
            "three objects": Smile(objects=3),
            "generated": Smile(generated=0.5),
            "long": Smile(steps=2000),
        },
    ),
    "sigma": Spec(
        "SIGMA-MLP",
        {
            "half": Sigma(rate=2.5e-4, ratio=0.5),
            "more": Sigma(rate=2.5e-4),
            "most": Sigma(rate=2.5e-4, ratio=0.9),
            "random": Sigma(rate=2.5e-4, ratio=0.5, mask="random"),
            "slow": Sigma(rate=6e-5, ratio=0.5),
            "fast": Sigma(rate=1e-3, ratio=0.5),
            "few prototypes": Sigma(rate=2.5e-4, ratio=0.5, prototypes=16),
            "many prototypes": Sigma(rate=2.5e-4, ratio=0.5, prototypes=256),
            "scaled": Sigma(rate=2.5e-4, ratio=0.5, scale=0.6),
            "windows": Sigma(rate=2.5e-4, ratio=0.5, span=20),
            "generated": Sigma(rate=2.5e-4, ratio=0.5, generated=0.5),
            "drones": Sigma(rate=2.5e-4, ratio=0.5, drones=0.5),
            "long": Sigma(rate=2.5e-4, ratio=0.5, steps=2000),
        },
    ),
}
"""Rows by key."""

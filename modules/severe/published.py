"""Published results of SEVERE's eight experiments, and their mean.

R(2+1)D-18 pretrained on Kinetics-400: Table 4 of https://arxiv.org/abs/2203.14221 in the version of its project page; the
printed paper differs by up to about two points. ViT-B pretrained on Kinetics-400: project pages of SMILE
(https://arxiv.org/abs/2504.00527), and of SIGMA (https://arxiv.org/abs/2407.15447) for SVT and SIGMA-MLP; SIGMA's page has
slightly different numbers for some rows. All are in percent except UCF-RC, the mean absolute error of counting as a share of
the true count.
"""

from collections.abc import Mapping, Sequence

from modules.severe.experiments import SUBSET, Experiment, Preset

COLUMNS = tuple(one.name for one in SUBSET)
PUBLISHED: dict[Preset, dict[str, tuple[float, ...]]] = {
    "mini": {},
    "cnn": {
        "None (from scratch)": (56.8, 89.4, 43.1, 23.1, 45.0, 84.0, 0.232, 7.9),
        "MoCo": (57.0, 90.6, 60.7, 29.0, 65.1, 85.0, 0.220, 8.1),
        "SeLaVi": (56.4, 88.9, 69.2, 28.3, 50.2, 81.5, 0.171, 8.2),
        "VideoMoCo": (58.8, 90.5, 65.8, 19.2, 60.4, 82.1, 0.171, 10.5),
        "Pretext-Contrast": (57.0, 90.3, 62.7, 25.9, 65.8, 86.2, 0.168, 8.9),
        "RSPNet": (59.4, 91.3, 75.7, 32.2, 63.5, 85.1, 0.151, 9.1),
        "AVID-CMA": (53.8, 90.6, 68.8, 32.1, 67.2, 88.4, 0.162, 8.4),
        "CtP": (60.2, 92.2, 63.7, 31.2, 79.7, 88.4, 0.178, 9.6),
        "TCLR": (60.0, 91.5, 70.6, 24.5, 61.0, 85.3, 0.149, 11.1),
        "GDT": (57.8, 90.4, 77.8, 44.1, 65.7, 81.6, 0.137, 8.5),
        "Supervised": (61.0, 91.8, 86.0, 51.2, 81.0, 86.9, 0.137, 23.6),
    },
    "vit": {
        "SVT": (59.5, 62.3, 83.9, 18.5, 35.4, 55.1, 0.421, 35.5),
        "MVD": (70.0, 82.5, 67.1, 17.5, 31.3, 50.5, 0.184, 16.1),
        "VideoMAE": (68.6, 86.6, 74.6, 25.9, 42.8, 65.3, 0.172, 14.4),
        "MGMAE": (68.9, 87.2, 77.2, 24.1, 33.7, 79.5, 0.181, 17.9),
        "SIGMA-MLP": (69.8, 87.4, 80.2, 26.8, 46.0, 79.7, 0.178, 20.1),
        "MGM": (71.1, 89.1, 78.4, 26.4, 38.6, 86.9, 0.152, 22.5),
        "SIGMA (DINO)": (70.9, 89.7, 84.1, 28.0, 55.1, 79.9, 0.169, 23.1),
        "MME": (70.1, 89.7, 79.2, 29.8, 55.5, 87.2, 0.155, 23.6),
        "SMILE without motion": (71.6, 90.0, 85.2, 32.0, 53.4, 74.3, 0.175, 30.5),
        "SMILE": (72.1, 90.8, 86.4, 35.1, 55.1, 88.3, 0.170, 32.5),
    },
}
"""By preset and method: the numbers in the order of `COLUMNS`."""
PUBLISHED_MEANS = {
    "SVT": 51.0, "MVD": 52.1, "VideoMAE": 57.6, "MGMAE": 58.8, "SIGMA-MLP": 61.5, "MGM": 62.2, "SIGMA (DINO)": 64.2,
    "MME": 65.0, "SMILE without motion": 64.9, "SMILE": 67.9,
}  # fmt: skip
"""Means as they were published; the first paper has none."""


def severe_score(numbers: Mapping[str, float], experiments: Sequence[Experiment] = SUBSET) -> float | None:
    """Mean of the numbers, the counting error e as 100 (1 - e): with the eight, the score of the papers that follow SEVERE.

    Args:
        numbers: by the name of the experiment.
        experiments: of which the mean is made.

    Returns:
        None if one is missing: there is no mean over seven.
    """
    if any(one.name not in numbers for one in experiments):
        return None
    return sum(points(one.is_error, numbers[one.name]) for one in experiments) / len(experiments)


def points(is_error: bool, number: float) -> float:
    """A number as points from 0 to 100, the larger the better."""
    return 100 * (1 - number) if is_error else number

"""Peak compute of devices, as published by their makers."""

import re
from typing import NamedTuple

import torch


class Peak(NamedTuple):
    """Peak TFLOP/s of dense matrix products, without sparsity, with float32 accumulation; None if not supported."""

    float16: float
    bfloat16: float | None
    tf32: float | None
    float32: float


PEAKS: dict[str, Peak] = {
    "H200 NVL": Peak(835, 835, 417, 60),
    "H200": Peak(989, 989, 494, 67),
    "H100 NVL": Peak(835, 835, 417, 60),
    "H100 PCIe": Peak(756, 756, 378, 51),
    "H100": Peak(989, 989, 494, 67),
    "A100": Peak(312, 312, 156, 19.5),
    "A40": Peak(149.7, 149.7, 74.8, 37.4),
    "A30": Peak(165, 165, 82, 10.3),
    "A10": Peak(125, 125, 62.5, 31.2),
    "L40S": Peak(362, 362, 183, 91.6),
    "L40": Peak(181, 181, 90.5, 90.5),
    "L4": Peak(121, 121, 60, 30.3),
    "RTX 4090": Peak(165.2, 165.2, 82.6, 82.6),
    "RTX 3090": Peak(71, 71, 35.6, 35.6),
    "RTX A6000": Peak(154.8, 154.8, 77.4, 38.7),
    "V100-PCIE": Peak(112, None, None, 14),
    "V100": Peak(125, None, None, 15.7),
    "T4": Peak(65, None, None, 8.1),
}
"""Peaks by words of the device name in PyTorch; the first match is used. From NVIDIA's data sheets, which also list values with
sparsity, twice as large."""
OTHERS = re.compile(r"Laptop|Max-Q|MIG|4090 D\b")
"""Slower devices whose names start like one of these."""


def peak_tflops(name: str, precision: str) -> float | None:
    """Peak compute of a device in the precision of a run, in TFLOP/s.

    Args:
        name: device name as reported by PyTorch.
        precision: the trainer's, such as `bf16-mixed`. Products of float32 use TF32 unless PyTorch is set to full precision.

    Returns:
        None if unknown: for devices that are not in `PEAKS`, and precisions that they do not support.
    """
    peak = (
        None if OTHERS.search(name) else next((peak for words, peak in PEAKS.items() if re.search(rf"\b{words}\b", name)), None)
    )
    if peak is None:
        return None
    if precision.startswith("bf16"):
        return peak.bfloat16
    if precision.startswith("16"):
        return peak.float16
    if precision.startswith("32"):
        return peak.float32 if torch.get_float32_matmul_precision() == "highest" or peak.tf32 is None else peak.tf32
    return None

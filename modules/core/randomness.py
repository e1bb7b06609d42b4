"""Random numbers as a function of where they are used, never of what ran before.

Workers draw from (seed, epoch, index), the device from (seed, step, rank). So a run does not depend on the number of
workers, and one that is killed and resumed draws what the uninterrupted run would have drawn.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng


def derive_seed(*key: int) -> int:
    """A 63-bit seed from a tuple of integers; every integer counts, and so does their order.

    NumPy's `SeedSequence` does the mixing, so that neighbouring keys give unrelated streams.
    """
    # Two words per integer and the length in front: SeedSequence itself cannot tell (1,) from (1, 0).
    words = [len(key)] + [part >> shift & 0xFFFFFFFF for part in key for shift in (0, 32)]
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


def device_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A torch generator on `device`, seeded from the key. Costs no device synchronisation."""
    return torch.Generator(device).manual_seed(derive_seed(*key))


def host_generator(generator: torch.Generator) -> torch.Generator:
    """A generator on the CPU for numbers that the host draws within a step: the given one if it is there, else a new one.

    The new one is a function of the given one's seed and place, and moves it on, so that the next is another. Nothing waits.
    """
    if generator.device.type == "cpu":
        return generator
    place = generator.get_offset()
    # Offsets of CUDA's generators are multiples of 4.
    generator.set_offset(place + 4)
    return torch.Generator().manual_seed(derive_seed(generator.initial_seed(), place))


def worker_rng(*key: int) -> np.random.Generator:
    """A NumPy generator for loader workers, seeded from the key, normally (seed, epoch, index)."""
    return np.random.default_rng(derive_seed(*key))


@contextmanager
def seeded_libraries(*key: int) -> Iterator[None]:
    """Let libraries that draw from the global generators of Python, NumPy and torch draw from the key; then restore these."""
    seed = derive_seed(*key)
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  (it is what libraries draw from)
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded_host_libraries(*key: int) -> Iterator[None]:
    """As `seeded_libraries` for those that draw from Python and NumPy alone; also in a worker, where CUDA cannot be asked."""
    seed = derive_seed(*key)
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (it is what libraries draw from)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002

"""Random numbers that depend only on where they are used, not on earlier draws.

Generators of workers are seeded from (seed, epoch, index), those of the device from (seed, step, rank). So a run does not
depend on the number of workers, and a resumed run draws the same numbers as an uninterrupted one.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng


def derive_seed(*key: int) -> int:
    """A 63-bit seed from a tuple of integers. It depends on every integer and on their order.

    NumPy's `SeedSequence` mixes the integers, so that neighbouring keys give unrelated streams.
    """
    # Two words per integer, after the length, because SeedSequence does not distinguish (1,) from (1, 0).
    words = [len(key)] + [part >> shift & 0xFFFFFFFF for part in key for shift in (0, 32)]
    high, low = np.random.SeedSequence(words).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


def device_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A torch generator on `device`, seeded from the key. Causes no host sync."""
    return torch.Generator(device).manual_seed(derive_seed(*key))


def host_generator(generator: torch.Generator) -> torch.Generator:
    """A CPU generator for numbers that the host draws within a step: the given one if it is on the CPU, else a new one.

    The new generator is seeded from the seed and offset of the given one, whose offset is then advanced, so that the next call
    returns another one. There is no host sync.
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
    """Context in which the global generators of Python, NumPy and torch are seeded from the key, for libraries that use them.
    Their states are restored at the end."""
    seed = derive_seed(*key)
    with isolate_rng():
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  (libraries draw from it)
        torch.manual_seed(seed)
        yield


@contextmanager
def seeded_host_libraries(*key: int) -> Iterator[None]:
    """`seeded_libraries` for Python and NumPy only. It also works in a worker, where CUDA cannot be used."""
    seed = derive_seed(*key)
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  (libraries draw from it)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002

"""Random numbers as a function of where they are used, never of what ran before.

Workers draw from (seed, epoch, index), the device from (seed, step, rank). So a run does not depend on the number of
workers, and one that is killed and resumed draws what the uninterrupted run would have drawn.
"""

import numpy as np
import torch


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


def worker_rng(*key: int) -> np.random.Generator:
    """A NumPy generator for loader workers, seeded from the key, normally (seed, epoch, index)."""
    return np.random.default_rng(derive_seed(*key))

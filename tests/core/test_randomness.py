"""Seeds from keys."""

import torch

from modules.core.randomness import derive_seed, device_generator, worker_rng


def test_every_part_of_the_key_counts() -> None:
    keys = [(0,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (0, 0, 1), (5, 3, 2), (5, 2, 3), (-1, 0)]
    seeds = [derive_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(5, 3, 2) == derive_seed(5, 3, 2)


def test_neighbouring_keys_are_unrelated() -> None:
    draws = torch.stack([torch.rand(2000, generator=device_generator("cpu", 7, step)) for step in range(2)])
    assert abs(torch.corrcoef(draws)[0, 1]) < 0.1


def test_generators_repeat() -> None:
    assert worker_rng(1, 2, 3).integers(1000) == worker_rng(1, 2, 3).integers(1000)
    first, second = (torch.rand(3, generator=device_generator("cpu", 4)) for _ in range(2))
    assert torch.equal(first, second)

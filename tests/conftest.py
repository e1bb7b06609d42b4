"""Settings that hold for every test."""

import os

import pytest
import torch

# Many small tensors: more threads only cost time, and the machines that run these tests are small.
torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _restore_global_state() -> object:
    """Tests must not see each other's random state or the seed that a run has left in the environment."""
    state, seed = torch.get_rng_state(), os.environ.pop("PL_GLOBAL_SEED", None)
    yield
    torch.set_rng_state(state)
    os.environ.pop("PL_GLOBAL_SEED", None)
    if seed is not None:
        os.environ["PL_GLOBAL_SEED"] = seed

"""Settings for all tests."""

import os
from collections.abc import Iterator

import pytest
import torch

# With many small tensors, more threads only cost time, and test machines are small. Where tests run side by side (pytest -n 2),
# each has one thread, and so have the processes that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
else:
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def _same_random_numbers() -> object:
    """Every test draws the same numbers, independent of earlier tests, and leaves no seed in the environment."""
    seed = os.environ.pop("PL_GLOBAL_SEED", None)
    torch.manual_seed(0)
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)
    if seed is not None:
        os.environ["PL_GLOBAL_SEED"] = seed


def with_threads(count: int) -> Iterator[None]:
    """Use so many threads, and then as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Use one thread for many small operations, because threads block each other on a busy machine."""
    yield from with_threads(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Use two threads, because with one PyTorch may give a convolution another layout in memory."""
    yield from with_threads(2)

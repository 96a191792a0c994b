"""Random numbers as a pure function of where they are drawn: (run seed, iteration or sample, rank).

Nothing about randomness has to be stored for `--resume`: a sample's augmentation follows from the run's seed and the
sample's number, a step's random points from the run's seed, the iteration and the rank.
"""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def derive_seed(purpose: str, *key: int) -> int:
    """A 63-bit seed for a purpose and a tuple of non-negative integers; neighbouring keys give unrelated seeds."""
    high, low = np.random.SeedSequence((zlib.crc32(purpose.encode()), *key)).generate_state(2, np.uint32)
    return (int(high) << 31) ^ int(low)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's (CPU and GPU) global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def seeded_sampling(seed: int) -> Iterator[None]:
    """Seed the global CPU generators inside the block and put them back as they were after it.

    Augmentations draw from numpy's global state, the SSD colour jitter from Python's `random`, others from torch.
    The GPU's generators are left alone: they belong to the model.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])

"""Ways in which the bytes of a file get damaged."""

from __future__ import annotations

import numpy as np


def cut(content: bytes, share: float) -> bytes:
    """The first part of it."""
    return content[: int(len(content) * share)]


def flip(rng: np.random.Generator, content: bytes, bits: int = 1) -> bytes:
    """With some bits turned over."""
    damaged = bytearray(content)
    for _ in range(bits):
        damaged[int(rng.integers(len(damaged)))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def overwrite(rng: np.random.Generator, content: bytes) -> bytes:
    """With a stretch of random bytes."""
    start = int(rng.integers(len(content)))
    length = min(int(rng.integers(1, 64)), len(content) - start)
    return content[:start] + rng.bytes(length) + content[start + length :]


def damage(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """One of these, and its name."""
    kind = int(rng.integers(5))
    if kind == 0:
        return "cut", cut(content, float(rng.random()))
    if kind == 1:
        return "one bit", flip(rng, content)
    if kind == 2:
        return "bits", flip(rng, content, int(rng.integers(2, 40)))
    if kind == 3:
        return "stretch", overwrite(rng, content)
    return "zeros behind", cut(content, float(rng.random())).ljust(len(content), b"\0")

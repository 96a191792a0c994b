"""Weights and pictures that any implementation can draw from names and a seed, for comparison without checkpoint files.

A tensor is a function of its official name, its shape and the seed: standard normal numbers from Philox keyed with
crc32("seed:name"), scaled by what the name and the shape say.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, name: str) -> np.random.Generator:
    """The random numbers that belong to `name`."""
    return np.random.Generator(np.random.Philox(key=zlib.crc32(f"{seed}:{name}".encode())))


def seeded_tensor(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """float32 values of the parameter or buffer `name`.

    With x ~ N(0, 1): logit_scale -> ln(1 / 0.07); running_var -> 0.5 + |x|; running_mean -> 0.1 x; two or more axes ->
    x / sqrt(fan in); one axis and a name ending in "weight" -> 1 + 0.1 x; anything else -> 0.1 x.
    """
    x = torch.from_numpy(np.asarray(stream(seed, name).standard_normal(tuple(shape), dtype=np.float32)))
    if name.endswith("logit_scale"):
        return torch.full(tuple(shape), math.log(1 / 0.07))
    if name.endswith("running_var"):
        return 0.5 + x.abs()
    if name.endswith("running_mean"):
        return 0.1 * x
    if len(shape) >= 2:
        return x / float(np.float32(np.sqrt(np.prod(shape[1:]))))
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.1 * x
    return 0.1 * x


def seeded_state(
    official: Mapping[str, Tensor],
    *,
    seed: int,
    gains: Iterable[tuple[str, float]] = (),
    fills: Mapping[str, float] | None = None,
    constant: Collection[str] = (),
) -> dict[str, Tensor]:
    """Seeded values for every floating tensor of a state dict under official names.

    Args:
        gains: (regular expression for the whole name, factor), multiplied in float32, in order.
        fills: name -> constant.
        constant: names whose values stay as they are.
    """
    state = {}
    for name, value in official.items():
        drawn = value.is_floating_point() and name not in constant
        tensor = seeded_tensor(name, value.shape, seed) if drawn else value.clone()
        for pattern, factor in gains:
            if re.fullmatch(pattern, name):
                tensor = tensor * torch.tensor(factor, dtype=torch.float32)
        if fills and name in fills:
            tensor = torch.full_like(tensor, fills[name])
        state[name] = tensor
    return state


def seeded_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """`[height, width, 3]` uint8 RGB: twelve filled ellipses in random colours under noise."""
    rng = stream(seed, f"image:{height}x{width}")
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.zeros((height, width, 3), np.float32)
    for _ in range(12):
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        radius_y, radius_x = rng.uniform(0.08, 0.4) * height, rng.uniform(0.08, 0.4) * width
        inside = ((rows - centre_y) / radius_y) ** 2 + ((columns - centre_x) / radius_x) ** 2 < 1
        picture[inside] = rng.uniform(0, 255, 3)
    picture += rng.normal(0, 6, picture.shape).astype(np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)

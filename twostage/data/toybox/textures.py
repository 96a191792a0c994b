"""Procedural stuff: one painter per name, and a bank of tiles from which pictures cut their backgrounds.

Tiles are float32 RGB in 0..1, shape [S, S, 3].
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from twostage.data.toybox.words import STUFF

TILE = 256
Rng = np.random.Generator
Painter = Callable[[Rng], np.ndarray]


def noise(rng: Rng, rows: int, cols: int | None = None, size: int = TILE) -> np.ndarray:
    """Smooth noise [size, size] in about 0..1 with `rows` x `cols` random values stretched over the tile."""
    grid = rng.random((rows, cols or rows), dtype=np.float32)
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def fractal(rng: Rng, rows: int, cols: int | None = None, octaves: int = 3) -> np.ndarray:
    """Sum of noises of doubling frequency and halving strength, [TILE, TILE] in about 0..1."""
    cols = cols or rows
    total = np.zeros((TILE, TILE), np.float32)
    for octave in range(octaves):
        total += noise(rng, min(rows << octave, TILE), min(cols << octave, TILE)) * 0.5 ** (octave + 1)
    return total / (1 - 0.5**octaves)


def blend(dark: tuple[float, ...], light: tuple[float, ...], amount: np.ndarray) -> np.ndarray:
    """Colours between two RGB triples, [..., 3], by `amount` [...] in 0..1."""
    a = np.clip(amount, 0, 1)[..., None].astype(np.float32)
    return np.asarray(dark, np.float32) * (1 - a) + np.asarray(light, np.float32) * a


def step(x: np.ndarray, edge: float, softness: float) -> np.ndarray:
    """0 below `edge`, 1 above, linear over `softness`."""
    return np.clip((x - edge) / softness + 0.5, 0, 1).astype(np.float32)


def _grass(rng: Rng) -> np.ndarray:
    blades = 0.65 * noise(rng, 64, 200) + 0.35 * fractal(rng, 12)
    return blend((0.10, 0.30, 0.06), (0.42, 0.68, 0.20), (blades - 0.5) * 1.7 + 0.5)


def _sand(rng: Rng) -> np.ndarray:
    ripples = 0.5 + 0.5 * np.sin(np.arange(TILE)[:, None] * 0.35 + 8 * fractal(rng, 4))
    return blend((0.72, 0.60, 0.40), (0.93, 0.84, 0.62), 0.6 * ripples + 0.4 * noise(rng, 220))


def _water(rng: Rng) -> np.ndarray:
    waves = 0.6 * noise(rng, 60, 14) + 0.4 * noise(rng, 28, 8)
    foam = step(waves, 0.72, 0.15)
    return blend((0.03, 0.20, 0.42), (0.16, 0.50, 0.72), (waves - 0.5) * 2 + 0.5) * (1 - foam[..., None]) + foam[
        ..., None
    ] * np.float32(0.85)


def _sky(rng: Rng) -> np.ndarray:
    clouds = step(fractal(rng, 4, 3, 4), 0.58, 0.25)
    return blend((0.45, 0.68, 0.95), (0.95, 0.96, 0.98), clouds)


def _grid(rng: Rng, height: int, width: int, shift: int, joint: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of bricks: joint mask [TILE, TILE] (1 on joints) and a random value per brick [TILE, TILE]."""
    y, x = np.mgrid[0:TILE, 0:TILE]
    row = y // height
    x = x + (row % 2) * shift
    joints = np.maximum(1 - np.minimum(y % height, x % width) / joint, 0)
    values = rng.random((TILE // height + 2, TILE // width + 3), dtype=np.float32)
    return step(joints, 0.4, 0.5), values[row, x // width]


def _brick(rng: Rng) -> np.ndarray:
    joints, tone = _grid(rng, 12, 26, 13, 2.5)
    base = blend((0.45, 0.16, 0.10), (0.70, 0.32, 0.22), 0.7 * tone + 0.3 * noise(rng, 128))
    return base * (1 - joints[..., None]) + joints[..., None] * np.float32(0.76)


def _tiles(rng: Rng) -> np.ndarray:
    joints, tone = _grid(rng, 22, 22, 0, 2.2)
    base = blend((0.55, 0.72, 0.70), (0.72, 0.86, 0.84), 0.6 * tone + 0.4 * noise(rng, 12))
    return base * (1 - joints[..., None]) + joints[..., None] * np.float32(0.30)


def _wood(rng: Rng) -> np.ndarray:
    grain = 0.5 + 0.5 * np.sin(np.arange(TILE)[:, None] * 0.55 + 14 * noise(rng, 8, 2))
    planks = step(np.abs((np.arange(TILE) % 40) - 20.0), 19.0, 1.0)[:, None]
    return blend((0.40, 0.24, 0.10), (0.70, 0.48, 0.26), 0.7 * grain + 0.3 * noise(rng, 120, 12)) * (
        1 - 0.6 * planks[..., None]
    )


def _cells(rng: Rng, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of `count` random seeds: distance to the seed in pixels and a random tone per cell."""
    seeds = rng.integers(0, TILE, (count, 2))
    mask = np.full((TILE, TILE), 255, np.uint8)
    mask[seeds[:, 0], seeds[:, 1]] = 0
    distance, labels = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    tones = rng.random(int(labels.max()) + 1, dtype=np.float32)
    return distance, tones[labels]


def _gravel(rng: Rng) -> np.ndarray:
    distance, tone = _cells(rng, 1400)
    stones = blend((0.38, 0.37, 0.36), (0.80, 0.78, 0.75), tone)
    return stones * (1 - 0.75 * step(distance, 4.0, 3.0)[..., None])


def _snow(rng: Rng) -> np.ndarray:
    return blend((0.78, 0.84, 0.94), (0.99, 0.99, 1.0), fractal(rng, 6, octaves=3) * 1.3 - 0.1)


def _soil(rng: Rng) -> np.ndarray:
    clumps = 0.5 * noise(rng, 80) + 0.5 * fractal(rng, 20)
    return blend((0.14, 0.08, 0.04), (0.42, 0.27, 0.16), (clumps - 0.5) * 1.8 + 0.45)


def _asphalt(rng: Rng) -> np.ndarray:
    grain = 0.3 * fractal(rng, 6) + 0.7 * noise(rng, 256)
    return blend((0.16, 0.16, 0.18), (0.42, 0.42, 0.44), grain)


def _foliage(rng: Rng) -> np.ndarray:
    distance, tone = _cells(rng, 700)
    leaves = blend((0.02, 0.20, 0.10), (0.10, 0.44, 0.22), tone)
    return leaves * (1 - 0.65 * step(distance, 6.0, 5.0)[..., None])


def _marble(rng: Rng) -> np.ndarray:
    veins = np.abs(fractal(rng, 5, octaves=4) - 0.5)
    return blend((0.35, 0.36, 0.42), (0.90, 0.89, 0.87), veins * 9)


def _lava(rng: Rng) -> np.ndarray:
    cracks = np.abs(fractal(rng, 10, octaves=3) - 0.5)
    return blend((1.0, 0.62, 0.10), (0.16, 0.03, 0.03), cracks * 9)


PAINTERS: dict[str, Painter] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "sky": _sky,
    "brick": _brick,
    "wood": _wood,
    "gravel": _gravel,
    "snow": _snow,
    "soil": _soil,
    "tiles": _tiles,
    "asphalt": _asphalt,
    "foliage": _foliage,
    "marble": _marble,
    "lava": _lava,
}


class TextureBank:
    """Tiles of every stuff, painted once; `cut` takes random pieces of them."""

    def __init__(self, seed: int, tiles_per_stuff: int = 6) -> None:
        self._tiles: dict[str, list[np.ndarray]] = {}
        for index, stuff in enumerate(STUFF):
            rng = np.random.default_rng([seed, index])
            self._tiles[stuff] = [
                np.clip(PAINTERS[stuff](rng), 0, 1).astype(np.float32) for _ in range(tiles_per_stuff)
            ]

    def cut(self, rng: Rng, stuff: str, height: int, width: int) -> np.ndarray:
        """A piece [height, width, 3] at a random place and zoom (0.75..1.4), of a random tint."""
        tile = self._tiles[stuff][rng.integers(len(self._tiles[stuff]))]
        zoom = min(rng.uniform(0.75, 1.4), TILE / max(height, width))
        rows, cols = int(height * zoom), int(width * zoom)
        top, left = rng.integers(TILE - rows + 1), rng.integers(TILE - cols + 1)
        piece = tile[top : top + rows, left : left + cols]
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        piece = cv2.resize(np.ascontiguousarray(piece), (width, height), interpolation=cv2.INTER_LINEAR)
        return piece * rng.uniform(0.92, 1.08, 3).astype(np.float32)

"""Composing pictures: stuff regions, things on them, light, and (for scenes) the label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from twostage.data.segment_maps import segment_id
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.things import draw
from twostage.data.toybox.words import CLASSES, Thing

Rng = np.random.Generator
IGNORE = 255
# A thing must keep this share of its pixels visible when later ones are put on top.
_MIN_VISIBLE = 0.5
_PLACEMENT_TRIALS = 8


class Placed(NamedTuple):
    """One thing of a scene: what, where (centre x, y) and how big (radius), in pixels."""

    thing: Thing
    centre: tuple[float, float]
    radius: float


class Scene(NamedTuple):
    """A picture uint8 [H, W, 3] RGB, its labels uint8 [H, W] (indices of CLASSES, 255 = ignore) and what is on it.

    `segments` int64 [H, W] holds an id of `segment_id` where `labels` hold a class, else 0: every thing has one of its own,
    each stuff one.
    """

    image: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    stuff: tuple[str, ...]
    things: tuple[Placed, ...]


def regions(rng: Rng, count: int, height: int, width: int) -> list[np.ndarray]:
    """Soft masks [H, W] of `count` stuff regions, to be laid over each other in this order; the first is all ones."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    masks = [np.ones((height, width), np.float32)]
    for _ in range(count - 1):
        if rng.random() < 0.65:  # a horizon or a slanted border
            slope = rng.uniform(-0.25, 0.25) if rng.random() < 0.7 else rng.uniform(-3, 3)
            wave = rng.uniform(0, 4) * np.sin(x * rng.uniform(0.03, 0.12) + rng.uniform(0, 6))
            distance = (y - height * rng.uniform(0.25, 0.75) - slope * (x - width / 2) - wave) / np.hypot(1, slope)
            distance = -distance if rng.random() < 0.5 else distance
        else:  # a patch
            grid = rng.random((4, 4), dtype=np.float32)
            field = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
            distance = (field - np.quantile(field, rng.uniform(0.55, 0.75))) * 60
        masks.append(np.clip(distance + 0.5, 0, 1))
    return masks


def relight(rng: Rng, picture: np.ndarray) -> np.ndarray:
    """Light, tint, blur and noise over the whole picture; returns uint8."""
    height, width = picture.shape[:2]
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    gain = rng.uniform(0.7, 1.15) * (1 + strength * (np.cos(direction) * x + np.sin(direction) * y))
    picture = picture * gain[..., None].astype(np.float32) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.3, 0.8))
    picture = picture + rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0, 0.03)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def render_scene(
    rng: Rng, bank: TextureBank, stuff: Sequence[str], things: Sequence[Thing], height: int, width: int
) -> Scene:
    """A picture with the given stuff regions and things (small to large, occluding each other) and its labels.

    A thing that finds no place without hiding an earlier one is left out.
    """
    picture = np.zeros((height, width, 3), np.float32)
    owner = np.zeros((height, width), np.int64)  # index into CLASSES
    number = np.zeros((height, width), np.int64)  # of the thing, from 1; 0 for stuff
    edge = np.zeros((height, width), bool)
    for name, mask in zip(stuff, regions(rng, len(stuff), height, width), strict=True):
        picture = picture * (1 - mask[..., None]) + bank.cut(rng, name, height, width) * mask[..., None]
        owner[mask > 0.5] = CLASSES.index(name)
    placed: list[Placed] = []
    visible: list[np.ndarray] = []
    areas: list[int] = []
    for thing in things:
        for _ in range(_PLACEMENT_TRIALS):
            radius = float(np.exp(rng.uniform(np.log(12), np.log(36))))
            margin = min(radius, 0.3 * min(height, width))
            centre = (float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin)))
            before = rng.bit_generator.state
            alpha = draw(rng, np.zeros_like(picture), thing, centre, radius)
            solid = alpha > 0.5
            if not all((old & ~solid).sum() >= _MIN_VISIBLE * area for old, area in zip(visible, areas, strict=True)):
                continue
            # The same random numbers once more, now into the picture.
            rng.bit_generator.state = before
            draw(rng, picture, thing, centre, radius)
            owner[solid] = CLASSES.index(thing.name) if thing.name in CLASSES else IGNORE
            edge = (edge & ~solid) | ((alpha > 0.25) & (alpha < 0.75))
            visible = [old & ~solid for old in visible] + [solid]
            areas.append(int(solid.sum()))
            placed.append(Placed(thing, centre, radius))
            number[solid] = len(placed)
            break
    owner[edge] = IGNORE
    segments = np.where(owner == IGNORE, 0, segment_id(owner, number))
    return Scene(relight(rng, picture), owner.astype(np.uint8), segments, tuple(stuff), tuple(placed))

"""Captioned pictures, the tiny CLIPs' only teacher: like web images, mostly one thing at some size on some stuff.

Captions use every word, new shapes and unseen combinations included; nothing here holds or returns a mask.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twostage.data.toybox.scenes import regions, relight
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.things import draw
from twostage.data.toybox.words import ALL_THINGS, STUFF, Thing

Rng = np.random.Generator

# Less exact names of things, as captions often have: "blue star", "striped star", "star".
_PARTS = {
    name
    for thing in ALL_THINGS
    for name in (f"{thing.colour} {thing.shape}", f"{thing.attribute} {thing.shape}", thing.shape)
}
# Everything a caption can mention; a caption is a tuple of indices into it.
NAMES = STUFF + tuple(thing.name for thing in ALL_THINGS) + tuple(sorted(_PARTS))
_INDEX = {name: index for index, name in enumerate(NAMES)}
SIZES = ("small", "medium", "large")
_SMALL, _LARGE = 0.35, 0.6  # share of the canvas' side that a thing's diameter fills

# Ways of saying it; "{}" is what the picture shows. Many are ViLD's, which the classifiers use.
TEMPLATES = (
    "{}",
    "a {}",
    "a picture of a {}",
    "a photo of the {}.",
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
)
SIZED_TEMPLATES = (
    "a photo of a {size} {}.",
    "This is a photo of a {size} {}.",
    "There is a {size} {} in the scene.",
)


class Captioned(NamedTuple):
    """A picture uint8 [S, S, 3] RGB, the names its caption mentions (the first is the main one), its size word."""

    image: np.ndarray
    mentions: tuple[int, ...]
    size: int


def sentence(rng: Rng, mentions: tuple[int, ...], size: int) -> str:
    """A caption: "a photo of a striped blue star on grass." for the mentions of a `Captioned`."""
    names = [NAMES[m] for m in mentions]
    things = [name for name in names if name not in STUFF]
    stuff = [name for name in names if name in STUFF]
    text = " on ".join(part for part in (" and ".join(things), " and ".join(stuff)) if part)
    if rng.random() < 0.3:
        return SIZED_TEMPLATES[rng.integers(len(SIZED_TEMPLATES))].format(text, size=SIZES[size])
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(text)


def less_exact(index: int) -> tuple[int, ...]:
    """The less exact names of what NAMES[index] names; none for stuff."""
    if not len(STUFF) <= index < len(STUFF) + len(ALL_THINGS):
        return ()
    thing = ALL_THINGS[index - len(STUFF)]
    return tuple(
        _INDEX[name] for name in (f"{thing.colour} {thing.shape}", f"{thing.attribute} {thing.shape}", thing.shape)
    )


def simplify(rng: Rng, mentions: tuple[int, ...]) -> tuple[int, ...]:
    """The same mentions with every thing named less exactly, in one of the three ways."""
    way = int(rng.integers(3))
    return tuple(less_exact(index)[way] if less_exact(index) else index for index in mentions)


def render_captioned(
    rng: Rng, bank: TextureBank, side: int, things: int | None = None, *, complete: bool = False
) -> Captioned:
    """One captioned picture of `side` x `side` pixels with `things` things (default: 0 to 3, mostly 1).

    `complete`: all that was drawn is mentioned, instead of what web captions mention of it.
    """
    count = int(rng.choice(4, p=(0.12, 0.60, 0.20, 0.08))) if things is None else things
    grounds = rng.permutation(len(STUFF))[: 1 + int(rng.random() < (0.3 if count else 0.15))]
    picture = np.zeros((side, side, 3), np.float32)
    for ground, mask in zip(grounds, regions(rng, len(grounds), side, side), strict=True):
        picture = picture * (1 - mask[..., None]) + bank.cut(rng, STUFF[ground], side, side) * mask[..., None]
    chosen = [int(i) for i in rng.permutation(len(ALL_THINGS))[:count]]
    largest = 0.0
    for place, index in enumerate(chosen):
        radius = _draw_somewhere(rng, picture, ALL_THINGS[index], side, alone=count == 1, front=place == count - 1)
        largest = max(largest, radius)
    share = 2 * largest / side
    size = 2 if not chosen or share > _LARGE else (1 if share > _SMALL else 0)
    image = relight(rng, picture)
    mentions = _all_of(chosen, grounds.tolist()) if complete else _mentions(rng, chosen, grounds.tolist())
    return Captioned(image, mentions, size)


def _draw_somewhere(rng: Rng, picture: np.ndarray, thing: Thing, side: int, alone: bool, front: bool) -> float:
    """Draw a thing: anywhere inside when alone, else smaller, so that several fit; returns its radius."""
    most = min(0.48 * side, 40.0) if alone else min(0.32 * side, 32.0)
    radius = float(np.exp(rng.uniform(np.log(12.0), np.log(most))))
    room = max(side / 2 - 0.8 * radius, 1.0) if alone or front else side / 2 - 0.6 * radius
    centre = (side / 2 + float(rng.uniform(-room, room)), side / 2 + float(rng.uniform(-room, room)))
    draw(rng, picture, thing, centre, radius)
    return radius


def _all_of(things: list[int], grounds: list[int]) -> tuple[int, ...]:
    return (*(len(STUFF) + index for index in things), *grounds)


def _mentions(rng: Rng, things: list[int], grounds: list[int]) -> tuple[int, ...]:
    """What the caption says: mostly the things, often with what they are on, at times only one of them."""
    named = [len(STUFF) + index for index in things]
    if not named:
        return tuple(grounds)
    if len(named) > 1 and rng.random() < 0.3:
        # The one drawn last hides the others and is never hidden.
        named = named[-1:]
    return tuple(named + grounds) if rng.random() < 0.3 else tuple(named)

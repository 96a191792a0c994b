"""Writes captioned toybox pictures to disk once, for systems that learn to segment from captions alone.

Two sets, `<datasets root>/<set>/images/*.jpg`, `captions.jsonl` (see `twostage.data.captions`) and `version.json`:

| set                     | pictures                     | captions                                                          |
|-------------------------|------------------------------|-------------------------------------------------------------------|
| `toybox_captions`       | mostly of one thing          | one each, like the web's: mostly the thing, seldom the ground     |
| `toybox_scene_captions` | of one to four things        | two each, as COCO has five: all that is there, and a part of it   |

Captions name seen and unseen classes alike, as the web would; no label map is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from twostage.data.toybox.captioned import Captioned, Rng, render_captioned, sentence
from twostage.data.toybox.dataset import JPEG_QUALITY, SEED, ensure_written, write_picture
from twostage.data.toybox.textures import TextureBank

# Raised whenever the same seed gives other bytes.
VERSION = 1
NUM_PICTURES = 4000
_SIDE = 128
_MOST_THINGS = 4
# Number of the set's random streams: beside the pictures' of `toybox_captions`, which have none.
_SCENES = 1


def ensure_toybox_captions(root: Path) -> Path:
    """`root/toybox_captions`, written first where it is missing or of another version.

    Raises:
        UserError: the folder can't be written.
    """
    return ensure_written(root / "toybox_captions", VERSION, write_captions)


def ensure_toybox_scene_captions(root: Path) -> Path:
    """`root/toybox_scene_captions`, written first where it is missing or of another version.

    Raises:
        UserError: the folder can't be written.
    """
    return ensure_written(root / "toybox_scene_captions", VERSION, write_scene_captions)


def write_captions(folder: Path, *, seed: int = SEED) -> None:
    """Write `toybox_captions` into the (new) `folder`: same seed, same bytes."""

    def draw(rng: Rng, bank: TextureBank) -> tuple[Captioned, list[str]]:
        captioned = render_captioned(rng, bank, _SIDE)
        return captioned, [sentence(rng, captioned.mentions, captioned.size)]

    # A stream of its own for every picture; scenes use streams of other lengths.
    _write(folder, draw, [seed])


def write_scene_captions(folder: Path, *, seed: int = SEED) -> None:
    """Write `toybox_scene_captions` into the (new) `folder`: same seed, same bytes."""

    def draw(rng: Rng, bank: TextureBank) -> tuple[Captioned, list[str]]:
        captioned = render_captioned(rng, bank, _SIDE, int(rng.integers(1, _MOST_THINGS + 1)), complete=True)
        part = (captioned.mentions[rng.integers(len(captioned.mentions))],)
        return captioned, [sentence(rng, mentions, captioned.size) for mentions in (captioned.mentions, part)]

    _write(folder, draw, [seed, _SCENES, 0, 0])


def _write(folder: Path, draw: Callable[[Rng, TextureBank], tuple[Captioned, list[str]]], stream: list[int]) -> None:
    """Write what `draw` makes of the random stream of each picture, `stream` and the picture's number."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    bank = TextureBank(stream[0])
    lines = []
    for index in tqdm(range(NUM_PICTURES), "toybox captions", leave=False):
        captioned, captions = draw(np.random.default_rng([*stream, index]), bank)
        name = f"images/{index:05d}.jpg"
        picture = np.ascontiguousarray(captioned.image[..., ::-1])
        write_picture(folder / name, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        lines.append(json.dumps({"image": name, "captions": captions}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "version.json").write_text(json.dumps({"version": VERSION, "seed": stream[0]}) + "\n")

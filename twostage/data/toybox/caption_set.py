"""Writes captioned toybox pictures to disk once, for systems that learn to segment from captions alone.

`<datasets root>/toybox_captions/images/*.jpg`, `captions.jsonl` (see `twostage.data.captions`) and `version.json`.
Captions name seen and unseen classes alike, as the web would; no label map is written.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from twostage.data.toybox.captions import render_captioned, sentence
from twostage.data.toybox.dataset import JPEG_QUALITY, SEED, ensure_written, write_picture
from twostage.data.toybox.textures import TextureBank

# Raised whenever the same seed gives other bytes.
VERSION = 1
NUM_PICTURES = 4000
_SIDE = 128


def ensure_toybox_captions(root: Path) -> Path:
    """`root/toybox_captions`, written first where it is missing or of another version.

    Raises:
        UserError: the folder can't be written.
    """
    return ensure_written(root / "toybox_captions", VERSION, write_captions)


def write_captions(folder: Path, *, seed: int = SEED) -> None:
    """Write the whole set into the (new) `folder`: same seed, same bytes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    bank = TextureBank(seed)
    lines = []
    for index in tqdm(range(NUM_PICTURES), "toybox captions", leave=False):
        # A stream of its own for every picture; scenes use streams of other lengths.
        rng = np.random.default_rng([seed, index])
        captioned = render_captioned(rng, bank, _SIDE)
        name = f"images/{index:05d}.jpg"
        picture = np.ascontiguousarray(captioned.image[..., ::-1])
        write_picture(folder / name, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        captions = [sentence(rng, captioned.mentions, captioned.size)]
        lines.append(json.dumps({"image": name, "captions": captions}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "version.json").write_text(json.dumps({"version": VERSION, "seed": seed}) + "\n")

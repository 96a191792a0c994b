"""Pictures of a toybox caption set as one tensor, for what is trained on them from nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twostage.data.images import read_rgb


class CaptionedPictures(NamedTuple):
    """`images` uint8 `[N, 3, S, S]` and the `captions` of each."""

    images: Tensor
    captions: list[list[str]]


def read_pictures(folder: Path, count: int) -> CaptionedPictures:
    """The first square pictures and their captions of a caption set's folder (`captions.jsonl`)."""
    text = (folder / "captions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()[:count]]
    images = np.stack([read_rgb(folder / line["image"]) for line in lines])
    captions = [line["captions"] for line in lines]
    return CaptionedPictures(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), captions)

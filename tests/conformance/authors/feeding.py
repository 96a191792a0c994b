"""What both sides are fed: a picture of smooth noise, words with random embeddings, training records."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.benchmark.steps import skip_text_tower
from twostage.benchmark.training import training_record
from twostage.inference.resampling import Size
from twostage.vocabulary import Vocabulary

# Pixels between the random values that the picture joins smoothly: objects of this size.
_SMOOTH = 40
# The range of the random values, so narrow that what lies between them needs no clipping: in flat places PAMR divides by a
# standard deviation that is rounding alone.
_DARKEST, _BRIGHTEST = 40, 215


def smooth_picture(size: Size, seed: int = 0) -> Tensor:
    """Smooth noise, uint8 `[3, H, W]`."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.rand(1, 3, -(-height // _SMOOTH), -(-width // _SMOOTH), generator=generator)
    fine = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0]
    return (_DARKEST + (_BRIGHTEST - _DARKEST) * fine).clamp(0, 255).to(torch.uint8)


def entry(size: Size, output: Size, names: list[str]) -> dict[str, Any]:
    """One picture as Detectron2's models are given it, with its vocabulary."""
    return {"image": smooth_picture(size), "height": output[0], "width": output[1], "vocabulary": names}


def records(size: Size, batch: int, names: list[str]) -> list[dict[str, Any]]:
    """A training batch of `batch` pictures of smooth noise whose labels come in squares."""
    generator = torch.Generator().manual_seed(0)
    return [{**training_record(size, names, generator), "image": smooth_picture(size, seed)} for seed in range(batch)]


def random_text(model: Any, names: list[str]) -> Any:
    """What `embed_vocabulary` of our `model` gives for `names`, from random vectors in place of the text tower's.

    None where a training step embeds words anew, since their tower is trained, and where a system reads none.
    """
    if model.text is None or (model.training and model.text(Vocabulary.from_words(names[:1])).requires_grad):
        return None
    skip_text_tower(model)
    with torch.no_grad():
        return model.embed_vocabulary(Vocabulary.from_words(names))

"""A batch of pictures of different sizes gives each picture the result that it has alone."""

from __future__ import annotations

import pytest
import torch
from conformance.fingerprint import OVERRIDES, WORDS, seed_weights

from twostage.api import build_from_config, find_config
from twostage.config import load_config
from twostage.errors import UserError

SIZES = ((48, 64), (64, 48), (48, 64), (40, 40))


def _entries() -> list[dict]:
    generator = torch.Generator().manual_seed(5)
    pictures = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in SIZES]
    return [{"image": picture, "vocabulary": WORDS} for picture in pictures]


# One of each kind of network; padding would reach the others' results in the same places.
@pytest.mark.parametrize("name", ["san", "fcclip", "catseg", "maskclip_plus"])
def test_sizes_do_not_touch_each_other(name: str) -> None:
    torch.manual_seed(0)
    model = build_from_config(load_config(find_config(f"toybox/{name}"), OVERRIDES))
    seed_weights(model)
    with torch.inference_mode():
        together = [entry["sem_seg_labels"] for entry in model(_entries())]
        alone = [model([entry])[0]["sem_seg_labels"] for entry in _entries()]
    assert [tuple(labels.shape) for labels in together] == list(SIZES)
    for one, other in zip(together, alone, strict=True):
        # Two pictures of one size share their products, which round by the shape of what is multiplied.
        assert (one == other).float().mean() > 0.99


def test_a_batch_still_shares_its_words() -> None:
    entries = _entries()
    entries[1]["vocabulary"] = WORDS[:2]
    model = build_from_config(load_config(find_config("toybox/naclip"), OVERRIDES))
    with pytest.raises(UserError, match="must share one vocabulary"):
        model(entries)

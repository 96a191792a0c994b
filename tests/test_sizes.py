"""Absurd sizes: refused with what is allowed, at every key and option that takes one, before anything is computed."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from twostage.config import all_keys, default_config, load_config
from twostage.config.loading import key_groups
from twostage.errors import UserError, run_cli
from twostage.keys import get_key
from twostage.pictures import as_rgb
from twostage.sizes import LONGEST_PICTURE, LONGEST_SIDE, check_picture, parse_size

# What a key's name says of sizes; and keys of that name whose numbers are no sides that a picture gets.
_NAMED = re.compile(r"SIZE|SIDE|RESOLUTION|TILE|CANVAS|CROPS$|PAD_TO|WINDOW|MULTIPLE|DIVISIBILITY")
_OTHERS = {
    "INPUT.MAX_SIZE_TEST": "an upper bound",
    "INPUT.MAX_SIZE_TRAIN": "an upper bound",
    "INPUT.CAPTIONS.SUPERPIXEL_MIN_SIZE": "a number of pixels",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "a word",
    "MODEL.CATSEG.WINDOW": "cells of attention",
    "MODEL.CLIP.TEXT_BATCH_SIZE": "a number of prompts",
    "MODEL.MASK2FORMER.RESIZE_SCORES": "yes or no",
    "MODEL.MASKS.MIN_SIZE": "a number of pixels",
    "MODEL.MASKS.POINTS_PER_SIDE": "a number of points",
    "MODEL.PRESENCE.GROUP_SIZE": "a number of classes",
    "MODEL.SAN.CLIP_RESOLUTION": "a factor",
    "MODEL.SED.KERNEL_SIZES": "cells",
    "MODEL.SWIN.WINDOW_SIZE": "cells of attention",
    "TEST.AUG.MAX_SIZE": "of Detectron2, refused where it is set",
    "TEST.AUG.MIN_SIZES": "of Detectron2, refused where it is set",
    "TEST.LARGE.TILE": "of a picture in the original, see below",
    "INPUT.RESIZE_TEST": "a word",
    "MODEL.TRAINING_FREE.THROUGH_INPUT_SIZE": "yes or no",
    "SOLVER.REFERENCE_WORLD_SIZE": "a number of processes",
    "MODEL.CLIP_DINOISER.WINDOWS_PER_BATCH": "a number of windows",
    "MODEL.TALK2DINO.WINDOWS_PER_BATCH": "a number of windows",
    "MODEL.TRAINING_FREE.WINDOWS_PER_BATCH": "a number of windows",
}
CROPS = ("INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "(512,512)")


def _sides() -> set[str]:
    return {key for group in key_groups() for key in group.sides}


def test_every_key_that_is_called_a_size_is_a_side_or_known_to_be_none():
    named = {key for key in all_keys(default_config()) if _NAMED.search(key)}
    assert named - _sides() == set(_OTHERS)


@pytest.mark.parametrize("key", sorted(_sides()))
def test_endless_sides(key):
    default = get_key(default_config(), key)
    for side in (LONGEST_SIDE + 1, 10**5, 10**12):
        value = str([side] * len(default)) if isinstance(default, list | tuple) else str(side)
        with pytest.raises(UserError, match=rf"{re.escape(key)} is .*{side}.* at most {LONGEST_SIDE} pixels"):
            load_config("", [key, value])


@pytest.mark.parametrize(
    "opts",
    [
        ["TEST.LARGE.TILE", str(LONGEST_PICTURE + 1)],
        [*CROPS, "INPUT.SCALE_JITTER", "(1,9)"],
        ["INPUT.RESIZE_TEST", "stretch", "INPUT.SIZE_TEST", "(0,640)"],
        ["INPUT.RESIZE_TEST", "stretch", "INPUT.SIZE_TEST", "(-5,640)"],
    ],
)
def test_sides_that_other_keys_make(opts):
    with pytest.raises(UserError, match="pixels"):
        load_config("", opts)


@pytest.mark.parametrize("text", ["0x10", "10x0", "1x4097", "1x100000", "100000x100000", f"{'9' * 5000}x1"])
def test_sizes_that_are_too_small_or_too_large(text):
    with pytest.raises(UserError, match=rf"^--size is '.*; a side has 1 to {LONGEST_SIDE} pixels$"):
        parse_size(text, "--size")


@pytest.mark.parametrize(
    "text", ["", "x", "640", "640x", "-1x5", "1x-5", "1.5x2", "640x480x3", "640 x 480", "٣x٣", "axb"]
)
def test_what_is_no_size(text):
    with pytest.raises(UserError, match=r"^--size is .*HEIGHTxWIDTH"):
        parse_size(text, "--size")


def test_the_largest_sizes_are_sizes():
    assert parse_size(f"1x{LONGEST_SIDE}", "--size") == (1, LONGEST_SIDE)
    check_picture(1, LONGEST_PICTURE)


def test_a_picture_that_is_too_long():
    with pytest.raises(UserError, match=f"70000 x 1 pixels.* at most {LONGEST_PICTURE}.*twostage large"):
        as_rgb(np.zeros((1, 70000, 3), np.uint8))


@pytest.mark.parametrize("asked", ["numpy", "torch"])
def test_too_little_memory_is_told_with_the_way_out(capsys, asked):
    """As it comes from the library that runs out of it."""

    def allocate():
        return np.empty(2**60, np.uint8) if asked == "numpy" else torch.empty(2**60, dtype=torch.uint8)

    with pytest.raises(SystemExit):
        run_cli(allocate)
    told = capsys.readouterr().err
    assert told.startswith("error: there is not enough memory for another 1") and "INPUT.MIN_SIZE_TEST" in told

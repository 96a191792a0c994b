"""Contrast words for the tiny toybox CLIPs, which know no other words than those of their captions.

As in the list for photographs, these are plain words: stuffs, shapes, and shapes with a colour or an attribute. No name of
three words, such as the data set's classes of things have, is among them. Toybox has no synonyms, and its kinds share the
words of what they are kinds of, so that there are no pairs to calibrate by; thresholds were measured on training pictures
(docs/RESULTS.md, "None of my words").
"""

from __future__ import annotations

import math
from itertools import product

from twostage.contrast.lists import ContrastList
from twostage.data.toybox.words import ATTRIBUTES, COLOURS, SHAPES, STUFF

TOYBOX = ContrastList(
    groups={
        "stuff": STUFF,
        "shapes": SHAPES,
        "coloured shapes": tuple(f"{colour} {shape}" for colour, shape in product(COLOURS, SHAPES)),
        "patterned shapes": tuple(f"{attribute} {shape}" for attribute, shape in product(ATTRIBUTES, SHAPES)),
    },
    thresholds={"toybox-vit": 0.3, "toybox-convnext": math.inf},
)

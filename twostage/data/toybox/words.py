"""The toybox vocabulary: words, the classes made of them, and the names of the large vocabulary.

A thing is named "attribute colour shape" ("striped blue star"), a stuff by one word ("grass"). Class indices are fixed:

=============== ======= ==================================================
stuff, seen      0..11  labelled in training
things, seen    12..35  labelled in training
stuff, unseen   36..37  only in validation
things, unseen  38..53  only in validation: 12 new combinations of seen words, 4 with new shapes
=============== ======= ==================================================

so that a label map means the same whether the seen classes or all of them are the vocabulary.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple


class Thing(NamedTuple):
    """What a thing looks like; its name is the three words."""

    attribute: str
    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.attribute} {self.colour} {self.shape}"


ATTRIBUTES = ("plain", "striped", "dotted", "checkered")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SEEN_SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "rod", "bolt")
NEW_SHAPES = ("heart", "arrow", "moon", "flower")
SHAPES = SEEN_SHAPES + NEW_SHAPES

SEEN_STUFF = (
    "grass",
    "sand",
    "water",
    "sky",
    "brick",
    "wood",
    "gravel",
    "snow",
    "soil",
    "tiles",
    "asphalt",
    "foliage",
)
UNSEEN_STUFF = ("marble", "lava")
STUFF = SEEN_STUFF + UNSEEN_STUFF


def _things(text: str) -> tuple[Thing, ...]:
    return tuple(Thing(*line.split()) for line in text.strip().splitlines())


# Every attribute (6 times), colour (3 times) and seen shape (3 times) occurs among the seen things.
SEEN_THINGS = _things("""
    plain red circle
    striped blue circle
    dotted yellow circle
    checkered green square
    plain orange square
    striped white square
    dotted purple triangle
    checkered pink triangle
    plain yellow triangle
    striped red star
    dotted green star
    checkered white star
    plain blue cross
    dotted orange cross
    checkered purple cross
    striped green ring
    plain pink ring
    dotted white ring
    striped orange rod
    checkered red rod
    plain purple rod
    dotted blue bolt
    striped pink bolt
    checkered yellow bolt
""")

# First twelve new combinations of seen words, then four with shapes that no training label has.
UNSEEN_THINGS = _things("""
    striped purple circle
    checkered orange circle
    dotted red square
    plain blue square
    striped green triangle
    plain white triangle
    checkered blue star
    dotted pink star
    plain green cross
    striped yellow cross
    checkered red ring
    plain orange bolt
    plain red heart
    striped blue arrow
    dotted yellow moon
    checkered purple flower
""")

ALL_THINGS = tuple(Thing(*words) for words in product(ATTRIBUTES, COLOURS, SHAPES))

SEEN_CLASSES = SEEN_STUFF + tuple(thing.name for thing in SEEN_THINGS)
UNSEEN_CLASSES = UNSEEN_STUFF + tuple(thing.name for thing in UNSEEN_THINGS)
CLASSES = SEEN_CLASSES + UNSEEN_CLASSES

# Real-world nouns that no picture shows; they are part of the large vocabulary and never of a training caption.
_NOUNS = """
airplane apple armchair backpack banana barrel basket bathtub bear bed bench bicycle bird blanket boat book bottle
bowl bridge broom bucket building bus cabinet camera candle car carpet cat ceiling chair clock cloud coat computer
cow cup curtain desk dog door dress drum elephant escalator fan fence fireplace flag floor fork fountain giraffe
glass guitar hammer hat helicopter horse house jar kettle key keyboard kite knife ladder lamp laptop leaf lemon
lizard mailbox mirror monkey motorcycle mountain mug newspaper orchid oven owl painting palm pan parrot
pencil penguin person piano pillow pizza plant plate pumpkin purse rabbit radiator railing refrigerator river road
rock roof rope rug sandwich scarf scissors screen sheep shelf shirt shoe sink skateboard skirt skyscraper snake
sofa spoon stairs stove streetlight suitcase sunglasses swan table teapot telephone television tent tiger toaster
toilet tomato towel tower train tree truck trumpet turtle umbrella van vase violin wall wallet wardrobe watch
waterfall whale wheel window windmill zebra
"""
DISTRACTOR_NOUNS = tuple(_NOUNS.split())


def large_vocabulary() -> tuple[str, ...]:
    """CLASSES, then every other combination of the words, then real-world nouns: several hundred names."""
    others = [thing.name for thing in ALL_THINGS if thing.name not in set(CLASSES)]
    return CLASSES + tuple(others) + DISTRACTOR_NOUNS

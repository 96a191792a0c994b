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

from itertools import chain, islice, product
from typing import NamedTuple

from twostage.errors import UserError


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


# Every attribute (6 times), colour (3 times) and seen shape (3 times) occurs among the seen things. All things share 16
# looks (attribute and colour): each look has one or two seen things and one unseen one, of different shapes, so that the
# surface of a thing alone never tells whether it is a seen or an unseen one.
SEEN_THINGS = _things("""
    plain red circle
    plain red bolt
    plain blue square
    plain blue star
    plain green triangle
    plain pink ring
    striped yellow circle
    striped yellow cross
    striped purple rod
    striped purple triangle
    striped red square
    striped white star
    dotted white ring
    dotted white square
    dotted orange bolt
    dotted orange cross
    dotted yellow triangle
    dotted blue circle
    checkered green star
    checkered green rod
    checkered pink cross
    checkered pink ring
    checkered orange rod
    checkered purple bolt
""")

# First twelve new combinations of seen words, then four with shapes that no training label has.
UNSEEN_THINGS = _things("""
    plain red square
    plain blue cross
    plain green star
    striped yellow triangle
    striped purple circle
    striped red ring
    dotted white star
    dotted orange ring
    dotted blue bolt
    checkered green square
    checkered pink circle
    checkered orange triangle
    plain pink heart
    striped white arrow
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


def distractors(count: int) -> tuple[str, ...]:
    """`count` names of nothing that is in a picture: the nearest first (other combinations of the words), then nouns, then
    nouns with a colour, then with an attribute, too.

    Raises:
        UserError: there are not that many.
    """
    near = large_vocabulary()[len(CLASSES) :]
    coloured = (f"{colour} {noun}" for noun, colour in product(DISTRACTOR_NOUNS, COLOURS))
    patterned = (
        f"{attribute} {colour} {noun}" for noun, attribute, colour in product(DISTRACTOR_NOUNS, ATTRIBUTES, COLOURS)
    )
    names = tuple(islice(chain(near, coloured, patterned), count))
    if len(names) < count:
        raise UserError(f"toybox's words make {len(names)} distractors, not {count}")
    return names

"""Words of captions beside masks, for systems that learn both: every picture of a labelled set gets the captions that a
caption set has for it, and a training sample words out of one of them (ODISE, Xu et al., CVPR 2023, section 3.5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.captions import CAPTIONS
from twostage.data.nouns import noun_phrases
from twostage.data.views import find_info, registered_names
from twostage.errors import UserError, near_names

Record = dict[str, Any]


def with_captions(records: Sequence[Record], name: str) -> list[Record]:
    """`records` with `captions`, a list of those that the caption set `name` has for the picture, by file name.

    Raises:
        UserError: no registered set, one without captions, or none for any of these pictures.
    """
    info = find_info(name)
    if info is None or info.kind != CAPTIONS:
        known = [each for each in registered_names() if getattr(find_info(each), "kind", "") == CAPTIONS]
        why = "no known data set" if info is None else "a data set without captions"
        raise UserError(
            f"DATASETS.CAPTIONS is {name!r}, which is {why}{near_names(name, known)}; there are: {', '.join(sorted(known))}"
        )
    captions: dict[str, list[str]] = defaultdict(list)
    for pair in info.records():
        captions[Path(pair["file_name"]).stem].append(pair["caption"])
    found = [{**record, "captions": captions.get(Path(record["file_name"]).stem, [])} for record in records]
    if not any(record["captions"] for record in found):
        raise UserError(
            f"DATASETS.CAPTIONS {name!r} has no caption for any of the {len(records)} training pictures (first: "
            f"'{records[0]['file_name']}'); captions belong to a picture by its file name"
        )
    return found


def draw_words(captions: Iterable[str], count: int) -> list[str]:
    """`count` noun phrases of one of the captions, drawn with replacement from NumPy's global generator; empty words where
    there is no caption or no phrase in it."""
    captions = list(captions)
    phrases = noun_phrases(captions[np.random.randint(len(captions))]) if captions else []
    if not phrases:
        return [""] * count
    return [phrases[index] for index in np.random.randint(len(phrases), size=count)]


class CaptionWords:
    """A mapper that also gives `words`, drawn from the record's `captions`."""

    def __init__(self, mapper: Callable[[Record], Record], *, count: int) -> None:
        """
        Args:
            mapper: for the picture and its masks.
            count: words of a picture.
        """
        self.mapper = mapper
        self.count = count

    def __call__(self, record: Record) -> Record:
        """See `mapper`; the words are drawn after its augmentations."""
        return {**self.mapper(record), "words": draw_words(record["captions"], self.count)}

"""What the entries of a batch (Detectron2's list of dicts) say beside the picture.

| key                       | meaning                                                                                        |
|---------------------------|------------------------------------------------------------------------------------------------|
| `image`                   | `[3, H, W]` RGB, 0..255                                                                        |
| `original`                | `[3, H, W]` RGB uint8, before it was resized (`INPUT.ORIGINAL`); where absent, `image` is it   |
| `file_name`               | the picture's, for masks that are found by it                                                  |
| `height`, `width`         | size of the output; the image's own where absent                                               |
| `vocabulary`              | names to look for, or a `Vocabulary`                                                           |
| `dataset_name`            | without `vocabulary`: a registered dataset, whose names are looked for                         |
| `things`                  | indices of the names that are countable things; only panoptic segments and instances need them |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twostage.errors import UserError
from twostage.vocabulary import Vocabulary

Batch = Sequence[dict[str, Any]]


def output_sizes(batch: Batch) -> list[tuple[int, int]]:
    """(height, width) wanted for each image."""
    return [(int(e.get("height", e["image"].shape[-2])), int(e.get("width", e["image"].shape[-1]))) for e in batch]


def places_by_size(batch: Batch) -> list[list[int]]:
    """Positions in the batch of the images of each size, sizes in the order of their first image.

    Raises:
        UserError: the images differ in their vocabulary or things, which all share.
    """
    for key in ("vocabulary", "dataset_name", "things"):
        if key in batch[0]:
            _common(batch, key)
    places: dict[tuple[int, int], list[int]] = {}
    for place, entry in enumerate(batch):
        places.setdefault(tuple(entry["image"].shape[-2:]), []).append(place)
    return list(places.values())


def batch_vocabulary(batch: Batch) -> Vocabulary:
    """The one vocabulary of a batch.

    Raises:
        UserError: none given, or the images differ in it.
    """
    for key in ("vocabulary", "dataset_name"):
        if key in batch[0]:
            names = _common(batch, key)
            if isinstance(names, Vocabulary):
                return names
            return Vocabulary.from_words(names) if key == "vocabulary" else Vocabulary.from_dataset(names)
    raise UserError("no vocabulary: give batch entries a 'vocabulary' (list of names) or a 'dataset_name'")


def batch_things(batch: Batch) -> tuple[int, ...] | None:
    """Which indices of the vocabulary are countable things; None where the entries don't say.

    Raises:
        UserError: the images differ in it.
    """
    return tuple(_common(batch, "things")) if "things" in batch[0] else None


def _common(batch: Batch, key: str) -> Any:
    first = batch[0][key]
    if any(entry.get(key) != first for entry in batch):
        raise UserError(f"all images of a batch must share one {key}")
    return first

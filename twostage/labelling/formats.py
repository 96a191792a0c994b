"""The formats of `twostage label`. Nothing heavy is imported here, so that the command line knows them at once."""

from __future__ import annotations

from twostage.results.formats import chosen

# parquet and jsonl: rows; coco: COCO's json of the pictures that could be labelled; png: a tar of label maps.
FORMATS = ("parquet", "jsonl", "coco", "png")


def parse_formats(text: str) -> tuple[str, ...]:
    """Formats behind commas, in the order of `FORMATS`. Raises UserError for none, or one that there is not.

    >>> parse_formats("png,parquet")
    ('parquet', 'png')
    """
    return chosen(text, FORMATS)

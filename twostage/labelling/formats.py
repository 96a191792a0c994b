"""The formats of `twostage label`. Nothing heavy is imported here, so that the command line knows them at once."""

from __future__ import annotations

from twostage.errors import UserError, near_names

# parquet and jsonl: rows; coco: COCO's json of the pictures that could be labelled; png: a tar of label maps.
FORMATS = ("parquet", "jsonl", "coco", "png")


def parse_formats(text: str) -> tuple[str, ...]:
    """Formats behind commas, in the order of `FORMATS`. Raises UserError for none, or one that there is not.

    >>> parse_formats("png,parquet")
    ('parquet', 'png')
    """
    wanted = [word.strip().lower() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in FORMATS:
            raise UserError(f"there is no format {word!r}{near_names(word, FORMATS)}; there are: {', '.join(FORMATS)}")
    if not wanted:
        raise UserError(f"no format is given; there are: {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in wanted)

"""The formats that a segmentation is saved in. Nothing heavy is imported here, so that the command line knows them at once."""

from __future__ import annotations

from collections.abc import Iterable

from twostage.errors import UserError, near_names

# png: overlay and label map; coco: COCO's json with run lengths; npz: numpy's arrays `labels` and `names`.
FORMATS = ("png", "coco", "npz")


def parse_formats(given: str | Iterable[str]) -> tuple[str, ...]:
    """Formats by name, in `FORMATS`' order and each once; a string may hold several behind commas.

    Raises:
        UserError: none, or one that there is not.

    >>> parse_formats("npz, png,png"), parse_formats(["coco"])
    (('png', 'npz'), ('coco',))
    """
    words = given.split(",") if isinstance(given, str) else given
    wanted = [word.strip().lower() for word in words if word.strip()]
    for word in wanted:
        if word not in FORMATS:
            raise UserError(f"there is no format {word!r}{near_names(word, FORMATS)}; there are: {', '.join(FORMATS)}")
    if not wanted:
        raise UserError(f"no format is given; there are: {', '.join(FORMATS)}")
    return tuple(name for name in FORMATS if name in wanted)

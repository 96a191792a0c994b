"""The formats that a segmentation is saved in. Nothing heavy is imported here, so that the command line knows them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    return chosen(given, FORMATS)


def chosen(given: str | Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """Those of the `allowed` formats that are `given`, in their order and each once; a string may hold several behind commas.

    Raises:
        UserError: none, or one that there is not.
    """
    words = given.split(",") if isinstance(given, str) else given
    wanted = [word.strip().lower() for word in words if word.strip()]
    for word in wanted:
        if word not in allowed:
            raise UserError(f"there is no format {word!r}{near_names(word, allowed)}; there are: {', '.join(allowed)}")
    if not wanted:
        raise UserError(f"no format is given; there are: {', '.join(allowed)}")
    return tuple(name for name in allowed if name in wanted)

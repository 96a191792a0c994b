"""How large a picture a network may be asked to look at, so that a slip of the keyboard is no riddle of memory."""

from __future__ import annotations

from twostage.errors import UserError, shown

# Longest side in pixels that a picture is resized, padded or cut to; more than that of any published setting. What is larger
# belongs to `twostage large`, which looks at tiles.
LONGEST_SIDE = 4096
# Longest side in pixels of a picture that is looked at as a whole; JPEG knows no longer one.
LONGEST_PICTURE = 65535
# Of a number; whatever has so many is too large for a side.
_DIGITS = 6


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Height and width of what is given behind `option`.

    Raises:
        UserError: something else than two whole numbers from 1 to `LONGEST_SIDE`.

    >>> parse_size("640x854", "--size")
    (640, 854)
    """
    sides = text.split("x")
    # int() reads the digits of other scripts, too, and takes long over thousands of them.
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise UserError(f"{option} is {shown(text)}; give HEIGHTxWIDTH in pixels, like 640x854")
    height, width = (int(side) if len(side) < _DIGITS else LONGEST_SIDE + 1 for side in sides)
    check_size(height, width, f"{option} is {shown(text)}")
    return height, width


def check_size(height: int, width: int, said: str) -> None:
    """UserError, which begins with what was `said`, for a size that no picture is resized to."""
    if not (1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE):
        raise UserError(f"{said}; a side has 1 to {LONGEST_SIDE} pixels")


def check_picture(height: int, width: int, what: str = "the picture") -> None:
    """UserError where a picture, called `what`, is too long to be looked at as a whole, however few pixels it has."""
    if max(height, width) > LONGEST_PICTURE:
        raise UserError(
            f"{what} is too long ({width} x {height} pixels, a side has at most {LONGEST_PICTURE}); cut it, or label it "
            "in tiles by `twostage large`"
        )

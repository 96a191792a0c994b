"""Many systems on the same pictures, as one picture: a row per system, a column per picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from twostage.errors import UserError
from twostage.visualization.overlay import INK, PAPER, fitted, font
from twostage.visualization.report import Example

# Of a panel at most, in pixels; with 32 systems and five pictures the sheet is about 1,100 x 4,300.
_PANEL_WIDTH, _PANEL_HEIGHT = 160, 120
_TITLE_WIDTH = 230
_GAP = 6
# No side of a sheet is longer, in pixels, where that can be had: WebP's are 16,383 at most.
_LONGEST = 16_000


def contact_sheet(examples: Sequence[Example]) -> np.ndarray:
    """The panels of all examples, uint8 RGB `[H, W, 3]`; they have the same panels, the image first and the ground truth last.

    The ground truth comes below the image here, above the systems. Systems that would make the sheet too high stand in further
    blocks to the right, below the image and the ground truth again.

    Raises:
        UserError: more systems or pictures than a picture file can show.
    """
    sizes = [_panel_size(example) for example in examples]
    row_height = max(height for _, height in sizes) + _GAP
    truth = len(examples[0].panels) - 1
    room = (_LONGEST - _GAP) // row_height - 2
    systems = range(1, truth)
    blocks = [[0, truth, *systems[first : first + room]] for first in range(0, max(len(systems), 1), room)]
    block_width = _TITLE_WIDTH + len(examples) * (_PANEL_WIDTH + _GAP)
    if len(blocks) * block_width > _LONGEST:
        raise UserError(
            f"{len(systems)} systems on {len(examples)} pictures don't fit into one sheet of {_LONGEST} x {_LONGEST} pixels"
        )
    canvas = Image.new("RGB", (len(blocks) * block_width, max(map(len, blocks)) * row_height + _GAP), PAPER)
    for place, order in enumerate(blocks):
        _draw_block(canvas, examples, sizes, order, left=place * block_width, row_height=row_height)
    return np.asarray(canvas)


def _draw_block(
    canvas: Image.Image,
    examples: Sequence[Example],
    sizes: Sequence[tuple[int, int]],
    order: Sequence[int],
    *,
    left: int,
    row_height: int,
) -> None:
    """The panels `order` below each other, from `left` on: their titles, then a column per example."""
    draw, text = ImageDraw.Draw(canvas), font(14)
    for row, panel in enumerate(order):
        title = examples[0].panels[panel][0]
        top = _GAP + row * row_height
        middle = (left + _GAP, top + row_height // 2)
        draw.text(middle, fitted(title, text, _TITLE_WIDTH - 2 * _GAP), INK, text, anchor="lm")
        for column, (example, size) in enumerate(zip(examples, sizes, strict=True)):
            small = cv2.resize(example.panels[panel][1], size, interpolation=cv2.INTER_AREA)
            canvas.paste(Image.fromarray(small), (left + _TITLE_WIDTH + column * (_PANEL_WIDTH + _GAP), top))


def _panel_size(example: Example) -> tuple[int, int]:
    """Width and height that an example's panels are shown at."""
    height, width = example.panels[0][1].shape[:2]
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    return max(1, round(width * scale)), max(1, round(height * scale))

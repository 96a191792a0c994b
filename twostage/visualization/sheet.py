"""Many systems on the same pictures, as one picture: a row per system, a column per picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from twostage.visualization.overlay import INK, PAPER, fitted, font
from twostage.visualization.report import Example

# Of a panel at most, in pixels; with 32 systems and five pictures the sheet is about 1,100 x 4,300.
_PANEL_WIDTH, _PANEL_HEIGHT = 160, 120
_TITLE_WIDTH = 230
_GAP = 6


def contact_sheet(examples: Sequence[Example]) -> np.ndarray:
    """The panels of all examples, uint8 RGB `[H, W, 3]`; they have the same panels, the image first and the ground truth last.

    The ground truth comes below the image here, above the systems.
    """
    sizes = [_panel_size(example) for example in examples]
    row_height = max(height for _, height in sizes) + _GAP
    rows = len(examples[0].panels)
    order = [0, rows - 1, *range(1, rows - 1)]
    width = _TITLE_WIDTH + len(examples) * (_PANEL_WIDTH + _GAP)
    canvas = Image.new("RGB", (width, rows * row_height + _GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    text = font(14)
    for row, panel in enumerate(order):
        title = examples[0].panels[panel][0]
        top = _GAP + row * row_height
        draw.text((_GAP, top + row_height // 2), fitted(title, text, _TITLE_WIDTH - 2 * _GAP), INK, text, anchor="lm")
        for column, (example, size) in enumerate(zip(examples, sizes, strict=True)):
            small = cv2.resize(example.panels[panel][1], size, interpolation=cv2.INTER_AREA)
            canvas.paste(Image.fromarray(small), (_TITLE_WIDTH + column * (_PANEL_WIDTH + _GAP), top))
    return np.asarray(canvas)


def _panel_size(example: Example) -> tuple[int, int]:
    """Width and height that an example's panels are shown at."""
    height, width = example.panels[0][1].shape[:2]
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    return max(1, round(width * scale)), max(1, round(height * scale))

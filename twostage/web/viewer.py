"""An answer as HTML: the picture, its labels for `viewer.js` to paint and to name under the pointer, and a table of areas."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from twostage.visualization.palette import palette
from twostage.web.served import Answer

# Longest side of what the browser shows; downloads have all pixels.
SHOWN_SIDE = 1024
_JPEG_QUALITY = 88
NONE = "none of the words"


class Layer(NamedTuple):
    """What is painted: int `[H, W]`, 0 where nothing is, else the number of a row from 1; and the rows' names."""

    numbers: np.ndarray
    names: tuple[str, ...]


def word_layer(answer: Answer) -> Layer:
    """A row per word."""
    return Layer(answer.result.labels + 1, answer.result.names)


def object_layer(answer: Answer, things: Sequence[str]) -> Layer:
    """A row per object of a word in `things`, and one per other word that is in the picture.

    Raises:
        UserError: the system predicts no masks, or a thing is not among the words.
    """
    panoptic = answer.result.panoptic(things)
    numbers, names, seen = np.zeros_like(panoptic.ids), [], dict.fromkeys(panoptic.names, 0)
    for segment in panoptic.segments:
        name = panoptic.names[segment["category_id"]]
        seen[name] += 1
        names.append(f"{name} {seen[name]}" if segment["isthing"] else name)
        numbers[panoptic.ids == segment["id"]] = len(names)
    return Layer(numbers, tuple(names))


def view(answer: Answer, layer: Layer) -> str:
    """HTML of an answer for the page."""
    height, width = layer.numbers.shape
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = Image.fromarray(answer.result.image).resize(size, Image.Resampling.BOX)
    split = np.stack([layer.numbers & 255, layer.numbers >> 8, np.zeros_like(layer.numbers)], axis=-1).astype(np.uint8)
    numbers = Image.fromarray(split).resize(size, Image.Resampling.NEAREST)
    picture = f"picture {answer.picture_ms:.0f} ms" if answer.picture_ms else "picture kept"
    return (
        f'<figure class="ts-view"><figcaption><b>{html.escape(answer.system)}</b> '
        f'<span class="ts-times">{picture}, words {answer.words_ms:.0f} ms</span></figcaption>'
        f'<div class="ts-stage"><img class="ts-photo" alt="the picture" src="{_data(photo, "JPEG")}">'
        f'<canvas aria-hidden="true"></canvas><img class="ts-map" alt="" hidden src="{_data(numbers, "PNG")}">'
        '<output class="ts-tip" hidden></output></div>'
        '<label class="ts-opacity">Opacity <input type="range" min="0" max="100" value="60"></label>'
        f"{_table(layer)}{_rivals(answer.result.others)}</figure>"
    )


def _table(layer: Layer) -> str:
    counts = np.bincount(layer.numbers.ravel(), minlength=len(layer.names) + 1) / layer.numbers.size
    colors = [bytes(color).hex() for color in palette(len(layer.names))]
    order = sorted(range(1, len(layer.names) + 1), key=lambda number: -counts[number])
    rows = [
        f'<tr data-number="{number}" data-color="{colors[number - 1]}"><td><label><input type="checkbox" checked>'
        f'<span class="ts-swatch" style="background:#{colors[number - 1]}"></span>'
        f"{html.escape(layer.names[number - 1])}</label></td><td>{100 * counts[number]:.1f} %</td></tr>"
        for number in order
    ]
    if counts[0]:
        rows.append(f'<tr data-number="0"><td>{NONE}</td><td>{100 * counts[0]:.1f} %</td></tr>')
    head = '<thead><tr><th scope="col">shown</th><th scope="col">of the picture</th></tr></thead>'
    return f'<table class="ts-areas">{head}<tbody>{"".join(rows)}</tbody></table>'


def _rivals(others: Sequence[str]) -> str:
    if not others:
        return ""
    listed = html.escape(", ".join(others))
    return f"<details><summary>{len(others)} other words competed</summary><p>{listed}</p></details>"


def _data(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"quality": _JPEG_QUALITY} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"

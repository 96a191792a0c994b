"""How a result shows itself in a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from twostage.visualization.palette import palette


def png_bytes(picture: np.ndarray) -> bytes:
    """A uint8 RGB picture `[H, W, 3]` as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def figure(picture: np.ndarray, areas: Mapping[str, float], names: Sequence[str]) -> str:
    """HTML: the picture, and a table of colours, names and shares of the picture; what is left over is "none"."""
    colors = palette(len(names))
    rows = [(f"#{bytes(colors[names.index(name)]).hex()}", name, share) for name, share in areas.items()]
    left = 1 - sum(areas.values())
    if left > 1e-9:
        rows.append(("#000000", "none of the words", left))
    cells = "".join(
        f'<tr><td style="background:{color};width:1.5em"></td><td style="text-align:left">{html.escape(name)}</td>'
        f"<td>{100 * share:.1f} %</td></tr>"
        for color, name, share in rows
    )
    source = base64.b64encode(png_bytes(picture)).decode("ascii")
    return (
        f'<figure style="margin:0"><img src="data:image/png;base64,{source}" alt="segmentation" style="max-width:100%">'
        f"<table>{cells}</table></figure>"
    )

"""Label maps over pictures: colours, outlines, names on large regions, a legend, and panels side by side.

Pictures are uint8 RGB `[H, W, 3]`, label maps integer `[H, W]`. A label outside the colours (ignore) stays as the
picture is. Drawing returns new arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from twostage.visualization.palette import palette

# Of the page around panels and legends; reads well on light and dark pages.
PAPER = (250, 250, 248)
INK = (32, 36, 42)
# Small pictures are enlarged to about this short side, so that names and outlines fit in.
_READABLE_SIDE = 384
# No picture that is drawn becomes longer, in pixels: it is to be looked at, and scan lines would fill the memory.
LONGEST_SIDE = 4096
# Regions below this share of the picture get no name.
_NAMED_SHARE = 0.015


def overlay(
    image: np.ndarray,
    labels: np.ndarray,
    colors: np.ndarray,
    *,
    alpha: float = 0.55,
    outlines: bool = True,
) -> np.ndarray:
    """Blend the colour of each pixel's class over the picture; `alpha` 1 gives exactly the class colours.

    Args:
        image: uint8 RGB `[H, W, 3]`.
        labels: `[H, W]`; values outside 0 .. len(colors) - 1 leave the picture as it is.
        colors: uint8 `[C, 3]`.
        alpha: share of the class colour, 0 to 1.
        outlines: draw class borders in the full class colour.
    """
    known = (labels >= 0) & (labels < len(colors))
    painted = colors[np.where(known, labels, 0)]
    mixed = np.rint((1 - alpha) * image + alpha * painted).astype(np.uint8)
    result = np.where(known[..., None], mixed, image)
    if outlines:
        border = class_borders(labels) & known
        result[border] = painted[border]
    return result


def class_borders(labels: np.ndarray) -> np.ndarray:
    """bool `[H, W]`: pixels with a neighbour (right, below, left or above) of another class."""
    border = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return border


def enlarged(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture (smooth) and labels (nearest) times a whole number, so that small ones become readable.

    No side becomes longer than `LONGEST_SIDE`; pictures that are longer are reduced to it.
    """
    height, width = labels.shape
    longest = max(height, width)
    if longest > LONGEST_SIDE:
        scale = LONGEST_SIDE / longest
        shown = (max(1, round(width * scale)), max(1, round(height * scale)))
        reduced = cv2.resize(image, shown, interpolation=cv2.INTER_AREA)
        # OpenCV resizes no 64-bit integers.
        return reduced, cv2.resize(labels.astype(np.int32), shown, interpolation=cv2.INTER_NEAREST).astype(labels.dtype)
    factor = max(1, min(round(_READABLE_SIDE / min(height, width)), LONGEST_SIDE // longest))
    if factor == 1:
        return image, labels
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    bigger = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), bigger


def draw_names(picture: np.ndarray, labels: np.ndarray, names: Sequence[str], *, shown_at: float = 1.0) -> np.ndarray:
    """Write class names in the middle of large connected regions, largest first, where there is room for the text.

    Args:
        shown_at: scale at which the picture will be looked at; the text is larger where that is below 1.
    """
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    height, width = labels.shape
    size = round(max(11, min(height, width) / 28) / shown_at)
    taken: list[tuple[float, float, float, float]] = []
    for label, x, y, radius in _large_regions(labels, len(names)):
        text_font = font(int(min(max(size, radius / 3), 2 * size)))
        left, top, right, bottom = draw.textbbox((x, y), names[label], text_font, anchor="mm", stroke_width=2)
        outside = left < 0 or top < 0 or right > width or bottom > height
        if outside or any(left < x1 and x0 < right and top < y1 and y0 < bottom for x0, y0, x1, y1 in taken):
            continue
        # With some air around it.
        taken.append((left - size / 4, top - size / 4, right + size / 4, bottom + size / 4))
        draw.text((x, y), names[label], (255, 255, 255), text_font, anchor="mm", stroke_width=2, stroke_fill=INK)
    return np.asarray(canvas)


def _large_regions(labels: np.ndarray, num_classes: int) -> list[tuple[int, int, int, float]]:
    """(class, x, y, distance to the border) deep inside each large connected region, largest first."""
    regions = []
    for label in np.unique(labels):
        if not 0 <= label < num_classes:
            continue
        mask = (labels == label).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        for part in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= _NAMED_SHARE * mask.size):
            if part == 0:  # what is not in the mask
                continue
            x, y, depth = _innermost(parts == part)
            regions.append((stats[part, cv2.CC_STAT_AREA], (int(label), x, y, depth)))
    return [region for _, region in sorted(regions, key=lambda entry: -entry[0])]


def _innermost(mask: np.ndarray) -> tuple[int, int, float]:
    """(x, y, distance to the border) of a pixel deep inside; of many equally deep ones (a band) the middle one."""
    # Padded, so that the border of the picture counts as a border of the region.
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    ys, xs = np.nonzero(depth >= 0.9 * depth.max())
    middle = np.argmin(np.square(ys - ys.mean()) + np.square(xs - xs.mean()))
    return int(xs[middle]), int(ys[middle]), float(depth.max())


def present_classes(*label_maps: np.ndarray, count: int, least_share: float = 0.0) -> list[int]:
    """Classes (below `count`) that occur in any of the label maps, the one covering most pixels first.

    `least_share`: leave out classes that cover a smaller share than this of every map.
    """
    pixels, largest = np.zeros(count, np.int64), np.zeros(count)
    for labels in label_maps:
        known = labels[(labels >= 0) & (labels < count)]
        counts = np.bincount(known.astype(np.int64), minlength=count)
        pixels += counts
        largest = np.maximum(largest, counts / labels.size)
    order = np.argsort(-pixels, kind="stable")
    return [int(c) for c in order if pixels[c] and largest[c] >= least_share]


def legend(entries: Sequence[tuple[str, Sequence[int]]], width: int, *, text_size: int = 15) -> np.ndarray:
    """A picture of `width` pixels with a swatch and a name per entry `(name, RGB)`, in as many lines as needed."""
    text_font, gap = font(text_size), text_size // 2
    line = text_size + gap + 2
    placed, x, y = [], gap, gap
    for name, color in entries:
        text = fitted(name, text_font, width - text_size - 4 * gap)
        wide = text_size + gap + int(text_font.getlength(text))
        if x > gap and x + wide > width - gap:
            x, y = gap, y + line
        placed.append((x, y, text, color))
        x += wide + 2 * gap
    canvas = Image.new("RGB", (width, y + line if placed else 2 * gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, y, text, color in placed:
        draw.rectangle((x, y, x + text_size, y + text_size), fill=tuple(int(v) for v in color), outline=INK)
        draw.text((x + text_size + gap, y + text_size // 2), text, INK, text_font, anchor="lm")
    return np.asarray(canvas)


def fitted(text: str, text_font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, cut with an ellipsis where it is longer than `width` pixels."""
    if text_font.getlength(text) <= width:
        return text
    while text and text_font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def draw_frame(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], colors: np.ndarray, *, alpha: float = 0.55
) -> np.ndarray:
    """`draw_segmentation` without its legend, whose height depends on what is there: pictures of one size stay so."""
    picture, bigger = enlarged(image, labels)
    return draw_names(overlay(picture, bigger, colors, alpha=alpha), bigger, names)


def draw_segmentation(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colors: np.ndarray | None = None,
    *,
    alpha: float = 0.55,
) -> np.ndarray:
    """The whole picture for one prediction: overlay with outlines, names on large regions, legend below.

    Args:
        image: uint8 RGB `[H, W, 3]`.
        labels: `[H, W]` indices into `names`.
        names: class names.
        colors: uint8 `[C, 3]`, default `palette(len(names))`.
        alpha: share of the class colour.

    Returns:
        uint8 RGB; small pictures are enlarged by a whole number, those longer than `LONGEST_SIDE` reduced.
    """
    chosen = palette(len(names)) if colors is None else np.asarray(colors, np.uint8)
    painted = draw_frame(image, labels, names, chosen, alpha=alpha)
    entries = [(names[c], chosen[c]) for c in present_classes(labels, count=len(names))]
    return np.vstack([painted, legend(entries, painted.shape[1])])


def side_by_side(
    panels: Sequence[tuple[str, np.ndarray]], entries: Sequence[tuple[str, Sequence[int]]] = (), *, gap: int = 10
) -> np.ndarray:
    """Titled panels of one size in a row, e.g. image | prediction | ground truth, and a legend over the full width."""
    height, width = panels[0][1].shape[:2]
    title_font, band = font(max(14, height // 24)), max(26, height // 12)
    total = len(panels) * width + (len(panels) + 1) * gap
    canvas = Image.new("RGB", (total, band + height + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, (title, picture) in enumerate(panels):
        x = gap + i * (width + gap)
        draw.text((x, band // 2), title, INK, title_font, anchor="lm")
        canvas.paste(Image.fromarray(picture), (x, band))
    parts = [np.asarray(canvas)]
    if entries:
        parts.append(legend(entries, total))
    return np.vstack(parts)


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib, so that pictures look the same without fonts on the machine."""
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)

"""Drawing things: shapes as polygons, colours, and the patterns that attributes name."""

from __future__ import annotations

import cv2
import numpy as np

from twostage.data.toybox.words import Thing

Rng = np.random.Generator

_RGB = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.08, 0.70, 0.20),
    "blue": (0.10, 0.25, 0.88),
    "purple": (0.50, 0.12, 0.70),
    "pink": (0.98, 0.50, 0.74),
    "white": (0.96, 0.96, 0.96),
}
# Colours on which only a dark second colour shows.
_LIGHT = ("yellow", "white", "pink")
# Outline and rim of every thing: they make its shape stand out from any pattern on any stuff.
_LINE, _RIM = np.float32(0.06), np.float32(0.97)
# Sub-pixel bits of cv2's fixed-point coordinates.
_SHIFT = 4


def _circle(radius: float = 1.0, points: int = 40) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def _star() -> np.ndarray:
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    return np.where(np.arange(10) % 2, 0.42, 1.05)[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)


def _cross(arm: float = 0.32) -> np.ndarray:
    a, b = arm, 0.98
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, (y - 2) / 15.5], 1)


def _moon() -> np.ndarray:
    outer = _circle()[5:36]  # open to the right
    inner = _circle(0.86)[6:35][::-1] + (0.46, 0.0)
    return np.concatenate([outer, inner]) + (0.1, 0.0)


def _flower() -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    return (0.74 + 0.30 * np.cos(5 * turn))[:, None] * np.stack([np.cos(turn), np.sin(turn)], 1)


# Contours in units of the radius; a second contour is a hole.
_CONTOURS: dict[str, list[np.ndarray]] = {
    "circle": [_circle(0.95)],
    "square": [0.84 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])],
    "triangle": [np.array([(0, -0.95), (1.0, 0.8), (-1.0, 0.8)])],
    "star": [_star()],
    "cross": [_cross()],
    "ring": [_circle(1.0), _circle(0.56)],
    "rod": [np.array([(-1.25, -0.17), (1.25, -0.17), (1.25, 0.17), (-1.25, 0.17)])],
    "bolt": [
        np.array([(0.25, -1.1), (-0.65, 0.15), (-0.1, 0.15), (-0.4, 1.1), (0.65, -0.25), (0.08, -0.25), (0.6, -1.1)])
    ],
    "heart": [_heart()],
    "arrow": [np.array([(-1, -0.26), (0.1, -0.26), (0.1, -0.8), (1.05, 0), (0.1, 0.8), (0.1, 0.26), (-1, 0.26)])],
    "moon": [_moon()],
    "flower": [_flower()],
}


def turn_of(rng: Rng, shape: str) -> float:
    """A random rotation in radians: any for a rod, small for the rest, so that up stays up."""
    return float(rng.uniform(0, np.pi) if shape == "rod" else rng.uniform(-0.4, 0.4))


def outline(shape: str, centre: tuple[float, float], radius: float, turn: float) -> list[np.ndarray]:
    """Contours [n, 2] of a shape in pixels, (x, y)."""
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    return [contour @ rotation * radius + centre for contour in _CONTOURS[shape]]


def coverage(contours: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Antialiased coverage [height, width] in 0..1 of the area inside an odd number of contours."""
    canvas = np.zeros((height, width), np.uint8)
    fixed = [np.round(contour * (1 << _SHIFT)).astype(np.int32) for contour in contours]
    cv2.fillPoly(canvas, fixed, 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return canvas.astype(np.float32) / 255


def _pattern(rng: Rng, attribute: str, u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Share of the second colour, [h, w] in 0..1, at pattern coordinates `u`, `v` in pixels."""
    # Softens the edges over about one pixel.
    sharp = period / 2.5
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, 2)
    wave_u = np.sin(2 * np.pi * u / period + phase_u)
    wave_v = np.sin(2 * np.pi * v / period + phase_v)
    if attribute == "striped":
        field = wave_u
    elif attribute == "checkered":
        field = 2 * wave_u * wave_v
    elif attribute == "dotted":
        field = 1.6 * (wave_u + wave_v - 0.95)
    else:
        return np.zeros_like(u)
    return np.clip(field * sharp / 2 + 0.5, 0, 1)


def paint(
    rng: Rng, thing: Thing, turn: float, centre: tuple[float, float], radius: float, shape: tuple[int, int]
) -> np.ndarray:
    """The thing's surface [height, width, 3] (colour, pattern, shading) wherever its coverage will show it."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    first = np.asarray(_RGB[thing.colour], np.float32) + rng.normal(0, 0.035, 3).astype(np.float32)
    dark = thing.colour in _LIGHT or rng.random() < 0.4
    second = np.full(3, rng.uniform(0.05, 0.2) if dark else rng.uniform(0.88, 1.0), np.float32)
    # Stripes of a rod run across it, so that a thin one still shows them.
    angle = turn if thing.shape == "rod" else turn + rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    period = float(np.clip(radius * rng.uniform(0.4, 0.55), 5.0, 13.0))
    share = _pattern(rng, thing.attribute, u, v, period)[..., None].astype(np.float32)
    surface = first * (1 - share) + second * share
    light = rng.uniform(0, 2 * np.pi)
    shade = 1 + rng.uniform(0, 0.25) * (x * np.cos(light) + y * np.sin(light)) / max(radius, 1.0)
    return surface * shade[..., None].astype(np.float32)


def draw(rng: Rng, picture: np.ndarray, thing: Thing, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Draw `thing` into `picture` [H, W, 3] (in place); returns its coverage [H, W]."""
    height, width = picture.shape[:2]
    turn = turn_of(rng, thing.shape)
    reach = 1.35 * radius + 2
    left, top = max(int(centre[0] - reach), 0), max(int(centre[1] - reach), 0)
    right, bottom = min(int(centre[0] + reach) + 1, width), min(int(centre[1] + reach) + 1, height)
    alpha = np.zeros((height, width), np.float32)
    if right <= left or bottom <= top:
        return alpha
    local = (centre[0] - left, centre[1] - top)
    contours = outline(thing.shape, local, radius, turn)
    part = coverage(contours, bottom - top, right - left)
    surface = paint(rng, thing, turn, local, radius, part.shape)
    line, rim = _edging(contours, radius, part)
    surface = surface * (1 - line[..., None]) + _LINE * line[..., None]
    surface = surface * part[..., None] + _RIM * (1 - part[..., None])
    part = np.maximum(part, rim)
    window = picture[top:bottom, left:right]
    window *= 1 - part[..., None]
    window += surface * part[..., None]
    alpha[top:bottom, left:right] = part
    return alpha


def _edging(contours: list[np.ndarray], radius: float, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage [height, width] of a thing's dark outline and of the light rim around it, as on a sticker."""
    fixed = [np.round(contour * (1 << _SHIFT)).astype(np.int32) for contour in contours]
    width = max(1, round(radius / 14))
    bands = []
    for thickness in (width, 2 * width + 1):
        band = np.zeros(part.shape, np.uint8)
        cv2.polylines(band, fixed, True, 255, thickness, cv2.LINE_AA, _SHIFT)
        bands.append(band.astype(np.float32) / 255)
    return bands[0], bands[1]

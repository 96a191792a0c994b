"""Masked crops of regions (OVSeg, Liang et al., CVPR 2023, section 3.2).

A crop shows its region's box with everything outside the mask painted in one colour, resized to CLIP's input. The resize
is bicubic (a = -0.75, as torch's, align_corners False, no antialias) and separable: four weighted rows, then four weighted
columns per output pixel. Every crop brings its own rows and columns, so that boxes of any size go together.

Legend: N regions, H x W the image, S side of a crop in pixels.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from twostage.clip.towers.vit import Tower, image_side
from twostage.errors import UserError

# Torch's bicubic kernel (Keys 1981).
_A = -0.75
_TAPS = 4
# Floats between the two passes of the resize; a few crops at a time stay in a processor's cache, which halves the time.
_BLOCK_FLOATS = 4 * 1024 * 1024


class Crops(NamedTuple):
    """`images` `[N, 3, S, S]` and the foreground `masks` `[N, 1, S, S]` that were cut with them."""

    images: Tensor
    masks: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cropper:
    """How regions are cut.

    Attributes:
        size: S.
        expand_ratio: boxes grow about their centre by this factor, as far as the image goes.
        background: colour `(r, g, b)` outside the mask, in the image's units.
    """

    size: int
    expand_ratio: float = 1.0
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __call__(self, image: Tensor, weights: Tensor, boxes: Tensor) -> Crops:
        """Cut `boxes` out of `image`.

        Args:
            image: `[3, H, W]`, in any units.
            weights: `[N, H, W]` in 0..1; how much of the image shows at each pixel, binary for hard masks.
            boxes: tight boxes int64 `[N, 4]`, see `mask_boxes`.
        """
        boxes = expand_boxes(boxes, self.expand_ratio, (image.shape[1], image.shape[2]))
        background = image.new_tensor(self.background)[:, None, None]
        masks = _resize_nearest(weights, boxes, self.size)[:, None].to(image.dtype)
        # Interpolation weights sum to one, so that the background can be taken off before and put back after the resize.
        foreground = image - background
        per_block = max(1, _BLOCK_FLOATS // (3 * self.size * image.shape[2]))
        blocks = zip(weights.split(per_block), boxes.split(per_block), strict=True)
        images = torch.cat([_resize_masked(foreground, w, b, self.size) for w, b in blocks]) + background
        return Crops(images, masks)


def crop_side(visual: Tower, wanted: int, key: str) -> int:
    """S for the crops that `visual` sees: `wanted` pixels, or for 0 the side of the pictures that it was trained on.

    Raises:
        UserError: `wanted`, the value of `key`, is not a whole number of patches.
    """
    patch = visual.conv1.kernel_size[0]
    if wanted < 0 or wanted % patch:
        raise UserError(f"{key} is {wanted}; it must be a multiple of this CLIP's patches of {patch} pixels, or 0")
    return wanted or image_side(visual)


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes int64 `[N, 4]` (left, top, right, bottom; the last two exclusive) of bool `[N, H, W]`; zeros if empty."""
    left, right = _extent(masks.any(dim=1))
    top, bottom = _extent(masks.any(dim=2))
    return torch.stack([left, top, right, bottom], dim=1)


def _extent(hit: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last true place of each row of `[N, L]`; zeros where there is none."""
    hit = hit.to(torch.uint8)
    any_hit = hit.amax(dim=1).long()
    first = hit.argmax(dim=1)
    last = hit.shape[1] - hit.flip(1).argmax(dim=1)
    return first * any_hit, last * any_hit


def expand_boxes(boxes: Tensor, ratio: float, image: tuple[int, int]) -> Tensor:
    """Boxes grown about their centre, cut to whole pixels towards zero, then limited to the image `(height, width)`."""
    if ratio == 1:
        return boxes
    corners = boxes.double().unflatten(1, (2, 2))  # [N, (first, last), (x, y)]
    centre = corners.mean(dim=1, keepdim=True)
    half = (corners[:, 1:] - corners[:, :1]) * (ratio / 2)
    grown = torch.cat([centre - half, centre + half], dim=1).trunc().long()
    limit = torch.tensor([image[1], image[0]], device=boxes.device)
    return grown.clamp(min=0).minimum(limit).flatten(1)


def _resize_masked(image: Tensor, weights: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Bicubic resize `[N, 3, S, S]` of the boxes of image * weights."""
    rows, row_weights = _bicubic_taps(boxes[:, 1], boxes[:, 3], size, image.dtype)
    columns, column_weights = _bicubic_taps(boxes[:, 0], boxes[:, 2], size, image.dtype)
    count, width = len(boxes), image.shape[2]
    which = torch.arange(count, device=image.device)[:, None]
    tall = image.new_zeros(3, count, size, width)
    for tap in range(_TAPS):
        row = rows[..., tap]
        # [N, S, W]: the weights are shared by the three channels.
        factor = weights[which, row] * row_weights[..., tap, None]
        tall.addcmul_(image[:, row], factor)
    crops = image.new_zeros(3, count, size, size)
    for tap in range(_TAPS):
        column = columns[None, :, None, :, tap].expand(3, -1, size, -1)
        crops.addcmul_(tall.gather(3, column), column_weights[:, None, :, tap])
    return crops.transpose(0, 1).contiguous()


def _bicubic_taps(low: Tensor, high: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pixels (int64 `[N, S, 4]`, inside `low:high`) and their weights for `size` output places along one axis."""
    length = (high - low).to(dtype)[:, None]
    place = torch.arange(size, device=low.device, dtype=dtype)
    # Torch's kernels multiply and subtract with one rounding, which double precision reproduces; two roundings move samples of
    # a large box by up to 3e-5 pixels.
    source = ((length / size).double() * (place + 0.5) - 0.5).to(dtype)
    base = source.floor()
    t = source - base
    taps = base.long()[..., None] + torch.arange(-1, 3, device=low.device)
    taps = (taps.clamp(min=0) + low[:, None, None]).minimum(high[:, None, None] - 1)
    weights = torch.stack([_outer(t + 1), _inner(t), _inner(1 - t), _outer(2 - t)], dim=-1)
    return taps, weights


def _inner(x: Tensor) -> Tensor:
    """The kernel on |x| <= 1."""
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: Tensor) -> Tensor:
    """The kernel on 1 < |x| < 2."""
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A


def _resize_nearest(masks: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Torch's legacy nearest resize `[N, S, S]` of the boxes of `masks` `[N, H, W]`."""
    which = torch.arange(len(boxes), device=masks.device)[:, None, None]
    rows = _nearest_places(boxes[:, 1], boxes[:, 3], size)
    columns = _nearest_places(boxes[:, 0], boxes[:, 2], size)
    return masks[which, rows[:, :, None], columns[:, None, :]]


def _nearest_places(low: Tensor, high: Tensor, size: int) -> Tensor:
    """Pixels int64 `[N, S]` that `size` output places take along one axis; torch reckons them in single precision."""
    length = high - low
    scale = length.float()[:, None] / size
    place = (torch.arange(size, device=low.device, dtype=torch.float32) * scale).floor().long()
    return place.minimum(length[:, None] - 1) + low[:, None]

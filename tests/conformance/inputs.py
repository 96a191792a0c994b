"""What a case feeds: seeded pictures, resized as it says, and training batches with the labels that it describes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor

from conformance.formulas import evaluate, found
from conformance.seeded import seeded_image
from twostage.data.augmentation import ResizeWithin
from twostage.data.mapper import to_tensor
from twostage.errors import UserError

Size = tuple[int, int]
_IGNORED = 255


def picture(entry: Mapping[str, Any]) -> np.ndarray:
    """Pixels uint8 `[H, W, 3]` of an entry with `height` and `width` (or `hw`) and `seed`."""
    height, width = entry["hw"] if "hw" in entry else (entry["height"], entry["width"])
    return seeded_image(height, width, entry["seed"])


def pictures_of(text: str, count: int) -> list[np.ndarray]:
    """The `count` pictures of a formula such as `seeded_image(224,224,4*100+i)`, in which i counts them from 0."""
    height, width, seed = found(r"seeded_image\(([^,]+),([^,]+),([^)]+)\)", text, "the pictures' formula").groups()
    return [seeded_image(evaluate(height), evaluate(width), evaluate(seed, i=i)) for i in range(count)]


def shortest_edge(pixels: np.ndarray, text: str) -> np.ndarray:
    """`pixels` after Detectron2's resize, where `text` tells of one: `ResizeShortestEdge(640, 2560)`, or without figures."""
    if "ResizeShortestEdge" not in text:
        return pixels
    figures = re.search(r"ResizeShortestEdge\(\[?(\d+)(?:, ?\d+\])?, ?(\d+)\)", text)
    short, long = (int(figures[1]), int(figures[2])) if figures else (640, 2560)
    return np.array(T.ResizeShortestEdge([short, short], long).get_transform(pixels).apply_image(pixels))


def size_of(value: Any) -> Size:
    """(height, width) from a pair or from an entry with `height` and `width`."""
    height, width = (value["height"], value["width"]) if isinstance(value, Mapping) else value
    return int(height), int(width)


def as_stored(case: Any, name: str, whole: Tensor) -> Tensor:
    """A map `[H, W]` at the pixels that the case stores: all, or every fourth (or so) both ways."""
    if name not in case.names:
        return whole
    stored = case.shape(name)
    for stride in (1, 2, 3, 4, 8, 16):
        part = whole[..., ::stride, ::stride]
        if tuple(part.shape) == stored:
            return part
    return whole


def grids(height: int, width: int) -> dict[str, np.ndarray]:
    """`x` `[1, W]` and `y` `[H, 1]` for formulas."""
    y, x = np.ogrid[:height, :width]
    return {"x": x, "y": y}


def instance_entry(pixels: np.ndarray, labels: np.ndarray, **common: Any) -> dict[str, Any]:
    """A training entry: one mask for every label of the map `[H, W]` but 255, in ascending order.

    Args:
        common: further entries, such as the vocabulary.
    """
    classes = np.unique(labels[labels != _IGNORED])
    masks = torch.as_tensor(labels == classes[:, None, None])
    return masks_entry(pixels, torch.as_tensor(classes, dtype=torch.int64), masks, **common)


def masks_entry(pixels: np.ndarray, classes: Tensor, masks: Tensor, **common: Any) -> dict[str, Any]:
    """A training entry with `masks` bool `[N, H, W]` of `classes` `[N]`."""
    instances = Instances((masks.shape[1], masks.shape[2]))
    instances.gt_classes, instances.gt_masks = classes, masks
    return {"image": to_tensor(pixels), "instances": instances, **common}


def stored_masks(case: Any, index: int, size: Size) -> tuple[Tensor, Tensor]:
    """Classes `[N]` and masks bool `[N, H, W]` of image `index` that a case stores as packed bits."""
    height, width = size
    bits = np.unpackbits(case.arrays[f"target{index}_masks_packed"], axis=1)[:, : height * width]
    masks = torch.from_numpy(bits.reshape(-1, height, width)).bool()
    return torch.from_numpy(case.arrays[f"target{index}_labels"]), masks


def striped_batch(meta: Mapping[str, Any], **common: Any) -> list[dict[str, Any]]:
    """Inputs of a training case: seeded images, and labels by the formula that the case gives in words:
    `label(y,x) = ((y//56 + 2*(x//64)) % k)*4 + 1 with k=5 for image 0 and k=4 for image 1; rows y<8 are 255 (ignored)`.
    """
    text = meta["ground_truth"]
    formula = found(r"label\(y, ?x\) = (.+?)(?: with | for |;|\.|$)", text, "the ground truth")[1]
    per_image = {int(image): int(k) for k, image in re.findall(r"k=(\d+) for image (\d+)", text)}
    ignored = re.search(r"rows (y ?<=? ?\d+) are 255", text)
    batch = []
    for index, entry in enumerate(meta["images"]):
        pixels = picture(entry)
        axes = grids(*pixels.shape[:2])
        if per_image and index not in per_image:
            raise UserError(f"the case's ground truth has no k for image {index}: {text!r}")
        labels = evaluate(formula, **axes, k=per_image.get(index)) + np.zeros(pixels.shape[:2], np.int64)
        if ignored is not None:
            labels = np.where(evaluate(ignored[1], **axes), _IGNORED, labels)
        batch.append(instance_entry(pixels, labels, **common))
    return batch


def sequence(value: Any) -> Sequence[Any]:
    """A list of one where a single value is given."""
    return value if isinstance(value, list | tuple) else [value]


def resized_picture(meta: Mapping[str, Any]) -> np.ndarray:
    """The case's picture, uint8 `[h, w, 3]`, within its `resize_scale` (long side, short side)."""
    long, short = meta["resize_scale"]
    pixels = picture(meta["image"])
    return ResizeWithin(long=long, short=short).get_transform(pixels).apply_image(pixels)

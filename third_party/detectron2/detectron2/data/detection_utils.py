"""Reading images and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.catalog import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, polygons_to_bitmask
from detectron2.utils.file_io import PathManager

__all__ = [
    "SizeMismatchError",
    "annotations_to_instances",
    "build_augmentation",
    "check_image_size",
    "check_metadata_consistency",
    "convert_PIL_to_numpy",
    "convert_image_to_rgb",
    "filter_empty_instances",
    "read_image",
    "transform_instance_annotations",
]


class SizeMismatchError(ValueError):
    """An image does not have the size that its record says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """A PIL image as an array: "BGR" or a PIL mode; None keeps the mode. "L" gives `[H, W, 1]`."""
    if format is not None:
        image = image.convert("RGB" if format == "BGR" else format)
    array = np.asarray(image)
    if format == "L":
        return array[..., None]
    return array[:, :, ::-1] if format == "BGR" else array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str | None) -> np.ndarray:
    """An array `[H, W, C]` in `format` ("BGR" or a PIL mode) as uint8 RGB `[H, W, 3]`."""
    array = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    if format == "BGR":
        return array[:, :, [2, 1, 0]]
    if format == "L":
        return np.array(Image.fromarray(array[:, :, 0].astype(np.uint8), mode="L").convert("RGB"))
    return np.array(Image.fromarray(array.astype(np.uint8)).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF data says.

    Args:
        format: "RGB", "BGR", "L" or another PIL mode; None: as stored.

    Returns:
        uint8 `[H, W, 3]`, `[H, W, 1]` for "L"; as stored: `[H, W]` or `[H, W, C]`, of the file's type.
    """
    with PathManager.open(file_name, "rb") as file:
        image = ImageOps.exif_transpose(Image.open(file))
        return convert_PIL_to_numpy(image, format)


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Fill in `height` and `width` of a record. SizeMismatchError where it has others than the image."""
    for key, side in (("height", 0), ("width", 1)):
        actual = image.shape[side]
        if dataset_dict.setdefault(key, actual) != actual:
            raise SizeMismatchError(
                f"{key} of {dataset_dict.get('file_name', 'the image')} is {actual}, "
                f"but its record says {dataset_dict[key]}"
            )


def transform_instance_annotations(
    annotation: dict[str, Any], transforms: T.Transform | Sequence[T.Transform], image_size: tuple[int, int]
) -> dict[str, Any]:
    """Apply transforms, in place, to an instance's box (becomes XYXY, cut to the image) and mask.

    Args:
        image_size: (height, width) after the transforms.

    Raises:
        ValueError: the segmentation is neither polygons nor an RLE dict.
    """
    tfm = transforms if isinstance(transforms, T.Transform) else T.TransformList(list(transforms))
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    moved = tfm.apply_box(np.array([box]))[0].clip(min=0)
    annotation["bbox"] = np.minimum(moved, list(image_size + image_size)[::-1])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            polygons = [np.asarray(p).reshape(-1, 2) for p in segmentation]
            annotation["segmentation"] = [p.reshape(-1) for p in tfm.apply_polygons(polygons)]
        elif isinstance(segmentation, dict):
            annotation["segmentation"] = tfm.apply_segmentation(_decode(segmentation))
        else:
            raise ValueError(f"a segmentation is a list of polygons or an RLE dict, not {type(segmentation).__name__}")
    return annotation


def _decode(rle: dict[str, Any]) -> np.ndarray:
    from pycocotools import mask as coco_mask

    return coco_mask.decode(rle)


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "bitmask"
) -> Instances:
    """`Instances` with `gt_boxes`, `gt_classes` and, where there are segmentations, `gt_masks` as `BitMasks`.

    Args:
        annos: as `transform_instance_annotations` leaves them.
        image_size: (height, width).

    Raises:
        ValueError: another mask format; upstream also knows "polygon".
    """
    target = Instances(image_size)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annos]
    target.gt_boxes = Boxes(torch.as_tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)))
    target.gt_classes = torch.tensor([int(a["category_id"]) for a in annos], dtype=torch.int64)
    if len(annos) and "segmentation" in annos[0]:
        if mask_format != "bitmask":
            raise ValueError(f"masks are read as 'bitmask' only, not {mask_format!r}")
        masks = [_as_mask(a["segmentation"], image_size) for a in annos]
        target.gt_masks = BitMasks(torch.stack([torch.from_numpy(np.ascontiguousarray(m)) for m in masks]))
    return target


def _as_mask(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    return _decode(segmentation) if isinstance(segmentation, dict) else segmentation


def filter_empty_instances(
    instances: Instances, by_box: bool = True, by_mask: bool = True, box_threshold: float = 1e-5
) -> Instances:
    """Instances whose box and mask are not empty."""
    assert by_box or by_mask, "filter by box, by mask or by both"
    keep = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        keep &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        keep &= instances.gt_masks.nonempty()
    return instances[keep]


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """ValueError where datasets differ in a metadata attribute; AttributeError where one has none of that name."""
    first, *others = dataset_names
    expected = getattr(MetadataCatalog.get(first), key)
    for name in others:
        if getattr(MetadataCatalog.get(name), key) != expected:
            raise ValueError(f"datasets '{first}' and '{name}' have different metadata '{key}'")


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Resizing by `INPUT.{MIN,MAX}_SIZE_*` and, in training, `INPUT.RANDOM_FLIP`."""
    if not is_train:
        return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]
    steps: list[T.Augmentation] = [
        T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    ]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip != "none":
        steps.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    return steps

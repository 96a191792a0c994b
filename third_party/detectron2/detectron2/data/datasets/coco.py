"""Semantic segmentation in two folders: images, and label maps of the same names."""

from __future__ import annotations

import logging
import os

from detectron2.utils.file_io import PathManager

__all__ = ["load_sem_seg"]

logger = logging.getLogger(__name__)


def load_sem_seg(gt_root: str, image_root: str, gt_ext: str = "png", image_ext: str = "jpg") -> list[dict[str, str]]:
    """Records (`file_name`, `sem_seg_file_name`) of the images and label maps directly in two folders, sorted by name.

    The two sides are paired by position; only where one has more files than the other, by name, with a warning.

    Raises:
        AssertionError: no label map with that extension.
    """
    labels, images = _stems(gt_root, gt_ext), _stems(image_root, image_ext)
    assert labels, f"No ground truth file of type '{gt_ext}' in {gt_root}."
    if len(labels) != len(images):
        logger.warning("Directory %s and %s has %d and %d files, respectively.", image_root, gt_root, len(images), len(labels))
        images = labels = sorted(set(images) & set(labels))
        logger.warning("Will use their intersection of %d files.", len(images))
    logger.info("Loaded %d images with semantic segmentation from %s", len(images), image_root)
    return [
        {
            "file_name": os.path.join(image_root, f"{image}.{image_ext}"),
            "sem_seg_file_name": os.path.join(gt_root, f"{label}.{gt_ext}"),
        }
        for image, label in zip(images, labels, strict=True)
    ]


def _stems(folder: str, extension: str) -> list[str]:
    """Sorted names of the files ending in `.extension`, without it."""
    return sorted(name[: -len(extension) - 1] for name in PathManager.ls(folder) if name.endswith(f".{extension}"))

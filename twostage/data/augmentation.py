"""The augmentations of a training recipe and of testing, built from the config alone.

Order of the training recipe (that of MaskFormer and SAN): resize to a random size, crop, SSD colour jitter, flip, pad
right and bottom.
"""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform
from fvcore.transforms.transform import PadTransform, Transform


class PadRightBottom(T.Augmentation):
    """Pads images smaller than `size` x `size` at the right and the bottom."""

    def __init__(self, *, size: int, value: float, label: int) -> None:
        """
        Args:
            size: smallest height and width in pixels.
            value: colour of the padding, on 0..255.
            label: label of the padding, the dataset's ignore label.
        """
        super().__init__()
        self.size = size
        self.value = value
        self.label = label

    def get_transform(self, image: np.ndarray) -> PadTransform:
        """Padding for an `[H, W, 3]` image."""
        height, width = image.shape[:2]
        down, right = max(0, self.size - height), max(0, self.size - width)
        return PadTransform(0, 0, right, down, width, height, pad_value=self.value, seg_pad_value=self.label)


class ResizeShortEdge(T.ResizeShortestEdge):
    """Detectron2's resize, in which a very thin picture keeps at least one pixel."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize of an `[H, W, C]` image; draws the size where there are several."""
        resize = super().get_transform(image)
        if isinstance(resize, T.ResizeTransform):
            resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
        return resize


class ScaleJitter(T.Augmentation):
    """Large-scale jitter (Ghiasi et al., CVPR 2021): as large as fits into a square whose side is drawn, the ratio kept."""

    def __init__(self, *, side: int, scales: tuple[float, float]) -> None:
        """
        Args:
            side: of the square that a crop takes afterwards, in pixels.
            scales: least and greatest side as a share of it, drawn evenly between.
        """
        super().__init__()
        self.side = side
        self.scales = scales

    def get_transform(self, image: np.ndarray) -> Transform:
        """The resize of an `[H, W, 3]` image; draws the size."""
        height, width = image.shape[:2]
        factor = np.random.uniform(*self.scales) * self.side / max(height, width)
        return T.ResizeTransform(height, width, max(1, round(height * factor)), max(1, round(width * factor)))


class ResizeWithin(T.Augmentation):
    """mmsegmentation's resize: as large as fits into `long` x `short` pixels in either orientation, the ratio kept."""

    def __init__(self, *, long: int, short: int) -> None:
        """
        Args:
            long, short: bounds of the long and of the short edge in pixels.
        """
        super().__init__()
        self.long = long
        self.short = short

    def get_transform(self, image: np.ndarray) -> OpenCvResize:
        """The resize of an `[H, W, 3]` image; sizes are rounded half up."""
        height, width = image.shape[:2]
        factor = min(self.long / max(height, width), self.short / min(height, width))
        return OpenCvResize(height=max(1, int(height * factor + 0.5)), width=max(1, int(width * factor + 0.5)))


class OpenCvResize(Transform):
    """Bilinear without antialiasing (nearest for labels), by OpenCV, on the image's own type."""

    def __init__(self, *, height: int, width: int) -> None:
        super().__init__()
        self.height = height
        self.width = width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """`[H, W, 3]` resized."""
        return cv2.resize(img, (self.width, self.height), interpolation=cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Label map `[H, W]` resized."""
        return cv2.resize(segmentation, (self.width, self.height), interpolation=cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Not defined: semantic data has none."""
        raise NotImplementedError("OpenCvResize resizes images and label maps")


def training_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation | T.Transform]:
    """The training recipe of `cfg.INPUT`, in the order of application."""
    steps: list[T.Augmentation | T.Transform] = []
    if scales := tuple(cfg.INPUT.SCALE_JITTER):
        steps.append(ScaleJitter(side=int(cfg.INPUT.CROP.SIZE[0]), scales=(scales[0], scales[1])))
    else:
        steps.append(
            ResizeShortEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
        )
    if cfg.INPUT.CROP.ENABLED:
        steps.append(
            T.RandomCrop_CategoryAreaConstraint(
                cfg.INPUT.CROP.TYPE,
                cfg.INPUT.CROP.SIZE,
                cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA,
                ignored_category=ignore_label,
            )
        )
    if cfg.INPUT.COLOR_AUG_SSD:
        steps.append(ColorAugSSDTransform(img_format=cfg.INPUT.FORMAT))
    if cfg.INPUT.RANDOM_FLIP != "none":
        vertical = cfg.INPUT.RANDOM_FLIP == "vertical"
        steps.append(T.RandomFlip(horizontal=not vertical, vertical=vertical))
    if cfg.INPUT.PAD_TO > 0:
        steps.append(PadRightBottom(size=cfg.INPUT.PAD_TO, value=cfg.INPUT.PAD_VALUE, label=ignore_label))
    return steps


def evaluation_augmentations(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """Testing only resizes: short edge to `MIN_SIZE_TEST`, long edge at most `MAX_SIZE_TEST`, as `INPUT.RESIZE_TEST` says;
    its "stretch" brings every picture to `SIZE_TEST`."""
    if cfg.INPUT.RESIZE_TEST == "stretch":
        return [T.Resize(tuple(cfg.INPUT.SIZE_TEST))]
    if cfg.INPUT.RESIZE_TEST == "opencv":
        return [ResizeWithin(long=cfg.INPUT.MAX_SIZE_TEST, short=cfg.INPUT.MIN_SIZE_TEST)]
    return [ResizeShortEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]

"""Points of masks (PointRend, CVPR 2020) and the colour augmentation of SSD."""

from detectron2.projects.point_rend.color_augmentation import ColorAugSSDTransform

__all__ = ["ColorAugSSDTransform"]

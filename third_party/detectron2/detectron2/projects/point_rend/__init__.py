"""Points of masks (PointRend, CVPR 2020) and the colour augmentation of SSD."""

from detectron2.projects.point_rend.color_augmentation import ColorAugSSDTransform
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness, point_sample

__all__ = ["ColorAugSSDTransform", "get_uncertain_point_coords_with_randomness", "point_sample"]

"""Deterministic transforms (fvcore's and ours) and the augmentations that draw them."""

from fvcore.transforms.transform import *  # noqa: F403

from detectron2.data.transforms.augmentation import *  # noqa: F403
from detectron2.data.transforms.augmentation_impl import *  # noqa: F403
from detectron2.data.transforms.transform import *  # noqa: F403

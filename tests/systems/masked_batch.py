"""A training batch of one picture whose masks have names."""

from __future__ import annotations

import torch
from detectron2.structures import Instances


def batch(count: int = 2):
    """Two masks, or the first `count` of them, of the first and the last of three names, one with a synonym."""
    torch.manual_seed(1)
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 2])[:count]
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, :32] = masks[1, 40:, :50] = True
    instances.gt_masks = masks[:count]
    names = ["grass, lawn", "sky", "blue star"]
    return [{"image": torch.randint(0, 255, (3, 64, 96)), "instances": instances, "vocabulary": names}]

"""The trunk as it was before training, which the trained one is held to (MAFT+, Jiao et al., ECCV 2024, section 3.4)."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from twostage.clip.loading import load_clip
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.clip.towers.vit import Tower
from twostage.errors import UserError


class Teacher:
    """CLIP's frozen image tower. No part of the model: it is read when a training step first asks, and never saved."""

    def __init__(self, clip: CfgNode) -> None:
        """
        Args:
            clip: the keys of `MODEL.CLIP`.
        """
        self._clip = clip.clone()
        self.visual: Tower | None = None

    def res5(self, images: Tensor) -> Tensor:
        """Last stage `[B, C, h, w]` of normalised images, without gradient.

        Raises:
            UserError: see `read`.
        """
        if self.visual is None:
            self.visual = self.read().to(images.device)
        with torch.no_grad():
            return feature_pyramid(self.visual, images)["res5"]

    def read(self) -> nn.Module:
        """The tower that `MODEL.CLIP.PRETRAINED` names. Raises UserError where it names none."""
        keys: Any = self._clip
        if not keys.PRETRAINED:
            raise UserError(
                "MODEL.MAFTP.COMPENSATION_WEIGHT holds the trained CLIP to the one it came from, but MODEL.CLIP.PRETRAINED "
                "is ''; name that CLIP, or set the weight to 0"
            )
        clip, _ = load_clip(keys.NAME, pretrained=keys.PRETRAINED, quick_gelu=keys.QUICK_GELU)
        return clip.visual.eval().requires_grad_(False)

"""Masks of one of our own systems (Mask2Former, MaskFormer in OVSeg, ...), with a config and weights of its own."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import transforms as T
from torch import Tensor

from twostage.data.augmentation import evaluation_augmentations
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.proposals.queries import MaskedQueries
from twostage.systems.two_stage.mask2former.model import Mask2Former

# Pixels whose best mask has a lower probability are in none.
_THRESHOLD = 0.5


class SystemMasks:
    """Every pixel belongs to its most probable mask, unless none is likely there. A `MaskSource`."""

    def __init__(self, model: Any, cfg: Any) -> None:
        """
        Args:
            model: a two-stage system of ours.
            cfg: its config.
        """
        self.model = model.eval()
        self.augmentations = T.AugmentationList(evaluation_augmentations(cfg))

    @torch.no_grad()
    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        sample = T.AugInput(picture.permute(1, 2, 0).cpu().numpy())
        self.augmentations(sample)
        images = self.model.preprocess([{"image": to_tensor(sample.image)}])
        logits, likely = self._masks(self.model.encode(images))
        at_image = Geometry.of(images).at_image_size(0, logits)
        masks = _resized(at_image, (picture.shape[1], picture.shape[2])).sigmoid()
        best, index = (masks * likely[:, None, None]).max(dim=0)
        return torch.where(best > _THRESHOLD, index + 1, 0).cpu()

    def _masks(self, encoded: Any) -> tuple[Tensor, Tensor]:
        """Mask logits `[Q, h, w]` of the one image, and how likely each shows anything `[Q]` (1: the system does not say)."""
        outputs = getattr(encoded, "outputs", None)
        if outputs is None:
            raise UserError(
                f"MODEL.MASKS.CONFIG is of {type(self.model).__name__}, which makes no masks; use one of a mask generator, "
                "e.g. 'mask2former_r50'"
            )
        final = outputs[0]
        # Most systems have mask embeddings beside the masks, ODISE beside the queries.
        masked = final if isinstance(final, MaskedQueries) else final[0]
        (logits,) = masked.mask_logits if isinstance(masked, MaskedQueries) else masked
        if not isinstance(self.model, Mask2Former) or self.model.classifier == "text":
            return logits, logits.new_ones(len(logits))
        void = self.model.class_logits(final.queries, None)[0].softmax(dim=-1)[:, -1]
        return logits, 1 - void


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]

"""CLIP embeddings of an image's regions, from masked crops: which are classified, each once, in chunks of bounded memory.

Legend: Q masks, N regions (masks with at least one pixel), H x W the image, D embedding size.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from twostage.clip.regions.contract import Regions
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.regions.mask_prompt import masked_image_embeddings
from twostage.clip.towers.vit import Tower


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegionEncoder:
    """How regions become embeddings.

    Attributes:
        cropper: how they are cut.
        threshold: pixels of a higher mask probability are the region; a mask without any is not classified.
        soft_background: the probability itself mixes image and background, instead of the thresholded mask.
        use_prompts: blank patches become the tower's mask prompts.
        batch_size: crops per pass through CLIP, which bounds the memory.
    """

    cropper: Cropper
    threshold: float
    soft_background: bool
    use_prompts: bool
    batch_size: int

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """Embed the regions of one image.

        Args:
            visual: CLIP's image tower.
            image: normalised as CLIP wants it, `[3, H, W]`.
            probabilities: of the masks, `[Q, H, W]`.

        Returns:
            `[Q, D]` of unit length, zero where the mask is empty, and `[Q]`.
        """
        masks = probabilities > self.threshold
        valid = masks.flatten(1).any(dim=1)
        kept = valid.nonzero().flatten()
        regions = masks[kept]
        boxes = mask_boxes(regions)
        if self.soft_background:
            which = torch.arange(len(kept), device=kept.device)
            inverse = which
            weights = probabilities[kept]
        else:
            which, inverse = distinct_masks(regions, boxes)
            weights = regions[which]
        parts = [
            self._embed(visual, image, w, b)
            for w, b in zip(weights.split(self.batch_size), boxes[which].split(self.batch_size), strict=True)
        ]
        embeddings = image.new_zeros(len(masks), visual.proj.shape[1])
        embeddings[kept] = torch.cat(parts)[inverse].to(embeddings.dtype)
        return Regions(embeddings, valid)

    def _embed(self, visual: Tower, image: Tensor, weights: Tensor, boxes: Tensor) -> Tensor:
        """Unit embeddings of one chunk of regions."""
        with record_function("crop"):
            crops = self.cropper(image, weights, boxes)
        masks = crops.masks if self.use_prompts else None
        with record_function("clip"):
            return F.normalize(masked_image_embeddings(visual, crops.images, masks), dim=-1)


def distinct_masks(masks: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which of bool `[N, H, W]` to look at so that each mask is seen once, and where each mask's twin is among them.

    Returns:
        Indices int64 `[U]` of the first of each kind, and int64 `[N]` with `masks[which][inverse]` equal to `masks`.
    """
    areas = masks.flatten(1).sum(dim=1)
    _, kind, counts = torch.cat([boxes, areas[:, None]], dim=1).unique(dim=0, return_inverse=True, return_counts=True)
    twin = torch.arange(len(masks), device=masks.device)
    # Only masks of the same box and area can be equal; they are where they overlap in all of their area.
    suspects = (counts[kind] > 1).nonzero().flatten()
    if len(suspects):
        flat = masks[suspects].flatten(1).double()
        equal = (flat @ flat.T == areas[suspects]) & (kind[suspects] == kind[suspects, None])
        twin[suspects] = suspects[equal.int().argmax(dim=1)]
    return twin.unique(return_inverse=True)

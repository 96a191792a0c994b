"""CLIP embeddings of an image's regions from one pass over the whole image, in place of masked crops (`encoder.py`).

Both are `RegionClassifier`s like `RegionEncoder`, so that any mask generator can be followed by any of them.

Legend: Q masks, H x W the image, h x w the grid of CLIP's tokens or of its last stage, D embedding size.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.regions.contract import Regions
from twostage.clip.regions.mask_pooling import embed_masks, pool_masks
from twostage.clip.regions.shadow_tokens import recognise_masks
from twostage.clip.towers.pyramid import feature_pyramid, to_whole_cells
from twostage.clip.towers.vit import Tower, embed_image, run_blocks, value_path_features

# Shuts a patch out of the attention, as in SAN.
_CLOSED = -100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledRegions:
    """Dense features pooled inside the masks (FC-CLIP, Yu et al., NeurIPS 2023, section 3.2).

    A convolutional tower's last stage is pooled before its projection, a ViT's value-path features (MaskCLIP) after it.
    For the former the picture is padded with zeros to whole cells.

    Attributes:
        threshold: pixels of a higher mask probability are the region.
    """

    threshold: float

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """See `RegionClassifier`."""
        masks = probabilities > self.threshold
        if hasattr(visual, "class_embedding"):
            image, masks = _a_patch_at_least(visual, image, masks)
            features = value_path_features(visual, image[None])
            inside = cells_inside(masks, (features.shape[2], features.shape[3]))[None]
            return _regions(pool_masks(features, inside)[0], masks)
        margin = to_whole_cells(masks.shape[1], masks.shape[2])
        features = feature_pyramid(visual, F.pad(image[None], margin))["res5"]
        inside = cells_inside(F.pad(masks, margin), (features.shape[2], features.shape[3]))[None]
        return _regions(embed_masks(visual, features, inside)[0], masks)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiasedRegions:
    """Class tokens that see only their mask in a ViT's last blocks: SAN's recognition (CVPR 2023, section 3.2) with the
    masks themselves as attention bias.

    Attributes:
        threshold: pixels of a higher mask probability are the region.
        blocks: how many of the last blocks are biased.
    """

    threshold: float
    blocks: int

    def __call__(self, visual: Tower, image: Tensor, probabilities: Tensor) -> Regions:
        """See `RegionClassifier`."""
        image, masks = _a_patch_at_least(visual, image, probabilities > self.threshold)
        blocks = list(visual.transformer.resblocks)
        tokens, _ = run_blocks(blocks[: -self.blocks], embed_image(visual, image[None]))
        bias = torch.where(cells_inside(masks, tokens.grid), 0.0, _CLOSED).to(image.dtype)
        return _regions(recognise_masks(visual, blocks[-self.blocks :], tokens, bias[None, None])[0], masks)


def cells_inside(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Grid cells `[Q, h, w]` that belong to bool `masks` `[Q, H, W]`: covered at least half as much as the mask's best one.

    So a thin mask keeps cells; an empty one has none.
    """
    cover = F.adaptive_avg_pool2d(masks.float(), grid)
    return (cover > 0) & (cover >= cover.amax(dim=(1, 2), keepdim=True) / 2)


def _a_patch_at_least(visual: Tower, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Image `[3, H, W]` and masks `[Q, H, W]` of a picture thinner than a patch, with zeros up to one; others as they are."""
    height, width = visual.conv1.kernel_size
    margin = (0, max(0, width - image.shape[2]), 0, max(0, height - image.shape[1]))
    return (F.pad(image, margin), F.pad(masks, margin)) if any(margin) else (image, masks)


def _regions(embeddings: Tensor, masks: Tensor) -> Regions:
    valid = masks.flatten(1).any(dim=1)
    return Regions(F.normalize(embeddings, dim=-1) * valid[:, None], valid)

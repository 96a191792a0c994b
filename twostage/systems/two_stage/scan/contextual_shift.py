"""SCAN's contextual shift: what a masked crop leaves blank becomes, in part, the whole picture (SCAN, section 3.3).

After some of CLIP's blocks a random few of a region's background tokens become the class token that the untouched CLIP has
of the whole picture after the same block; the others stay. The published inference draws them anew every time; here the
draw is the same for the same picture.

Legend: V regions, P patches, W width, D embedding size, S side of a crop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from twostage.clip.regions.contract import Regions
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.regions.mask_prompt import visible_patches
from twostage.clip.towers.vit import Replacement, Tower, image_embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftedRegions:
    """How the regions of a picture become embeddings.

    Attributes:
        cropper: how they are cut.
        threshold: pixels of a higher mask probability are the region.
        ratio: share of background tokens that become the class token.
        batch_size: crops per pass through CLIP, which bounds the memory.
    """

    cropper: Cropper
    threshold: float
    ratio: float
    batch_size: int

    def __call__(
        self, visual: Tower, image: Tensor, probabilities: Tensor, class_tokens: Mapping[int, Tensor]
    ) -> Regions:
        """Unit embeddings `[Q, D]` (zeros where a mask is empty) and bool `[Q]`, which masks are not.

        Args:
            visual: CLIP's image tower.
            image: normalised as CLIP wants it, `[3, H, W]`.
            probabilities: of the masks, `[Q, H, W]`.
            class_tokens: block -> class token `[W]` of the whole picture behind it.
        """
        masks = probabilities > self.threshold
        valid = masks.flatten(1).any(dim=1)
        regions = masks[valid]
        embeddings = image.new_zeros(len(masks), visual.proj.shape[1])
        parts = []
        for first in range(0, len(regions), self.batch_size):
            part = regions[first : first + self.batch_size]
            with record_function("crop"):
                crops = self.cropper(image, part.to(image.dtype), mask_boxes(part))
            visible = visible_patches(crops.masks, visual.conv1.kernel_size[0])[..., 0] > 0
            replace = shift_background(visible, class_tokens, ratio=self.ratio, first=first)
            with record_function("clip"):
                parts.append(F.normalize(image_embeddings(visual, crops.images, replace), dim=-1))
        if parts:
            embeddings[valid] = torch.cat(parts).to(embeddings.dtype)
        return Regions(embeddings, valid)


def shift_background(
    visible: Tensor, class_tokens: Mapping[int, Tensor], *, ratio: float, first: int = 0
) -> Replacement:
    """What `vit.run_blocks` calls to shift background tokens after the blocks in `class_tokens`.

    Args:
        visible: bool `[V, P]`, False for background.
        class_tokens: block -> `[W]`.
        ratio: share of each region's background tokens that become the class token, rounded down.
        first: number of the first of these regions in its picture.
    """
    background = ~visible
    number = (background.sum(dim=1).double() * ratio).floor().long()

    def replace(layer: int, tokens: Tensor) -> Tensor:
        if layer not in class_tokens:
            return tokens
        noise = replacement_noise(layer, background, first).masked_fill(visible, float("inf"))
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
        chosen = (rank < number[:, None])[..., None]
        return torch.where(chosen, class_tokens[layer].to(tokens.dtype), tokens)

    return replace


def replacement_noise(layer: int, background: Tensor, first: int) -> Tensor:
    """Uniform numbers float32 `[V, P]`, the same for the same block and region numbers; the smallest are chosen."""
    rows = []
    for region in range(first, first + len(background)):
        generator = torch.Generator().manual_seed(layer * 2**20 + region)
        rows.append(torch.rand(background.shape[1], generator=generator))
    return torch.stack(rows).to(background.device)

"""The masks that the adapter learns from: ground truth, and pairs of a proposal and the ground truth that it meets
(Mask-Adapter, Li et al., CVPR 2025, section 3.3).

Legend: G ground-truth masks of an image, Q proposals, P pairs, H x W the padded image, h x w the proposals' grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.proposals.matching import MaskTargets

# Label of a place that holds no mask.
PADDING = -1


class Pairs(NamedTuple):
    """Logits of the proposals `[P, h, w]`, their soft ground truths `[P, h, w]` and labels `[P]`; zeros for none."""

    logits: Tensor
    truths: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the masks of a training step are chosen.

    Attributes:
        truths: ground-truth masks per image, at most.
        pairs: pairs per image; 0 in the warm-up.
        probability: pixels of at least this probability are a proposal's region, where it is compared with ground truth.
        overlap: a proposal meets the ground truth that it overlaps by more than this (IoU).
        threshold: pixels of a higher probability are a proposal's mask.
    """

    truths: int
    pairs: int
    probability: float
    overlap: float
    threshold: float

    def draw_truths(self, target: MaskTargets) -> MaskTargets:
        """The image's ground-truth masks that are not empty; where there are too many, a random choice."""
        kept = target.masks.flatten(1).any(dim=1).nonzero().flatten()
        if len(kept) > self.truths:
            kept = kept[torch.randperm(len(kept))[: self.truths].to(kept.device)]
        return MaskTargets(classes=target.classes[kept], masks=target.masks[kept])

    @torch.no_grad()
    def draw_pairs(self, mask_logits: Tensor, target: MaskTargets) -> Pairs:
        """For every ground truth one of the proposals `[Q, h, w]` that meet it, at random; not the best, not one to one."""
        logits = mask_logits.new_zeros((self.pairs, *mask_logits.shape[1:]))
        truths, labels = torch.zeros_like(logits), target.classes.new_full((self.pairs,), PADDING)
        if len(target.classes) == 0:
            return Pairs(logits, truths, labels)
        soft = F.interpolate(target.masks[None].float(), mask_logits.shape[-2:], mode="bilinear", align_corners=False)[
            0
        ]
        meets = overlaps(mask_logits.sigmoid() >= self.probability, soft > 0.5) > self.overlap
        met = meets.any(dim=0).nonzero().flatten()
        queries = _one_of_each(meets[:, met])
        if len(met) > self.pairs:
            chosen = torch.randperm(len(met))[: self.pairs].to(met.device)
            met, queries = met[chosen], queries[chosen]
        count = len(met)
        logits[:count], truths[:count], labels[:count] = mask_logits[queries], soft[met], target.classes[met]
        return Pairs(logits, truths, labels)

    def paired_masks(self, pairs: Pairs, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks `[P, H, W]` of the proposals and of their ground truths.

        As published, a place without a pair is a logit of 0: an empty proposal, a full one where the threshold is below 0.5.
        """
        hard = (pairs.logits.sigmoid() > self.threshold).to(pairs.truths.dtype)
        masks = F.interpolate(torch.stack([hard, pairs.truths]), size=size, mode="bilinear", align_corners=False)
        return masks[0], masks[1]


def overlaps(masks: Tensor, truths: Tensor) -> Tensor:
    """IoU `[Q, G]` of bool masks `[Q, h, w]` and `[G, h, w]`."""
    a, b = masks.flatten(1).float(), truths.flatten(1).float()
    common = a @ b.T
    return common / (a.sum(dim=1)[:, None] + b.sum(dim=1) - common + 1e-6)


def _one_of_each(allowed: Tensor) -> Tensor:
    """A random row of each column of bool `[Q, M]` among those that are True; every column has one."""
    counts = allowed.sum(dim=0)
    place = (torch.rand(len(counts)).to(counts.device) * counts).long()
    return (allowed & (allowed.cumsum(dim=0) == place + 1)).int().argmax(dim=0)


def most(drawn: Sequence[MaskTargets]) -> int:
    """Masks of the image that has most, at least 1: places beyond them would be empty for all images."""
    return max(1, *(len(target.classes) for target in drawn))


def stacked(drawn: Sequence[MaskTargets], count: int) -> tuple[Tensor, Tensor]:
    """Masks `[B, count, H, W]` and labels `[B, count]` of several images, empty and `PADDING` where one has fewer."""
    masks = [F.pad(t.masks.float(), (0, 0, 0, 0, 0, count - len(t.masks))) for t in drawn]
    labels = [F.pad(t.classes, (0, count - len(t.classes)), value=PADDING) for t in drawn]
    return torch.stack(masks), torch.stack(labels)

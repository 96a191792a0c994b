"""Bipartite matching of predicted masks with ground-truth masks (Mask2Former, Cheng et al., CVPR 2022, section 3.3).

Legend: Q predicted masks, N ground-truth masks, P sampled points.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import point_sample
from scipy.optimize import linear_sum_assignment
from torch import Tensor

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskTargets:
    """Ground truth of one image: `classes` int64 `[N]` and `masks` bool `[N, H, W]`, padded like the batch tensor."""

    classes: Tensor
    masks: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class HungarianMatcher:
    """Assigns each ground-truth mask one predicted mask, at the lowest sum of costs.

    The mask costs are taken on `num_points` points drawn uniformly, the same for all masks of an image; with 0 on every
    pixel of the prediction's grid, as in MaskFormer (Cheng et al., NeurIPS 2021, appendix A).

    Attributes:
        focal: the pixel-wise mask cost is the focal one instead of cross-entropy.
    """

    class_weight: float
    mask_weight: float
    dice_weight: float
    num_points: int
    focal: bool = False

    @torch.no_grad()
    def __call__(self, class_logits: Tensor, mask_logits: Tensor, targets: MaskTargets) -> tuple[Tensor, Tensor]:
        """Matched pairs (query indices, target indices), ascending by query, for one image.

        Args:
            class_logits: `[Q, C + 1]`, void last.
            mask_logits: `[Q, h, w]`.
        """
        cost = self.cost(class_logits, mask_logits, targets)
        # Infinite logits give NaN costs, which the solver refuses; they make a match as bad as can be instead.
        rows, columns = linear_sum_assignment(torch.nan_to_num(cost, nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy())
        return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)

    @torch.no_grad()
    def cost(self, class_logits: Tensor, mask_logits: Tensor, targets: MaskTargets) -> Tensor:
        """Matching cost `[Q, N]`."""
        probability = class_logits.float().softmax(dim=-1)[:, targets.classes]
        if self.num_points:
            points = torch.rand(1, self.num_points, 2, device=mask_logits.device)
            predicted = sample_points(mask_logits.float(), points.expand(len(mask_logits), -1, -1))
            wanted = sample_points(targets.masks.float(), points.expand(len(targets.masks), -1, -1))
        elif len(targets.masks) == 0:
            # Nothing to match; torch refuses to resize nothing.
            return probability
        else:
            predicted = mask_logits.float().flatten(1)
            wanted = F.interpolate(targets.masks[None].float(), size=mask_logits.shape[-2:], mode="nearest")[0].flatten(
                1
            )
        pairwise_error = pairwise_focal if self.focal else pairwise_bce
        return (
            -self.class_weight * probability
            + self.mask_weight * pairwise_error(predicted, wanted)
            + self.dice_weight * pairwise_dice(predicted, wanted)
        )


def sample_points(masks: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples `[N, P]` of masks `[N, h, w]` at `points` `[N, P, 2]` (x, y in 0..1)."""
    return point_sample(masks[:, None], points, align_corners=False)[:, 0]


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy `[Q, N]` of every `logits` row `[Q, P]` with every `targets` row `[N, P]`."""
    positive = F.softplus(-logits) @ targets.T
    negative = F.softplus(logits) @ (1 - targets).T
    return (positive + negative) / logits.shape[1]


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of each logit if its target is 1, and if it is 0 (Lin et al., ICCV 2017; alpha 0.25, gamma 2)."""
    probability = logits.sigmoid()
    positive = FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * F.softplus(-logits)
    negative = (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * F.softplus(logits)
    return positive, negative


def pairwise_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean focal loss `[Q, N]` of every `logits` row `[Q, P]` with every `targets` row `[N, P]`."""
    positive, negative = focal_terms(logits)
    return (positive @ targets.T + negative @ (1 - targets).T) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss `[Q, N]`, smoothed by one, of every `logits` row `[Q, P]` with every `targets` row `[N, P]`."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ targets.T
    total = probability.sum(dim=1)[:, None] + targets.sum(dim=1)[None]
    return 1 - (overlap + 1) / (total + 1)

"""Set-prediction losses of mask-classification systems (Mask2Former, sections 3.2 and 3.3; points as in PointRend).

Legend: B images, Q predicted masks, C classes (+ 1 void), M matched masks of the whole batch, P points per mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness
from detectron2.utils import comm
from torch import Tensor

from twostage.proposals.matching import HungarianMatcher, MaskTargets, focal_terms, sample_points

Matches = list[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskLosses:
    """Classification, mask and dice losses of matched masks.

    Attributes:
        matcher: assigns predictions to ground truth.
        class_weight, mask_weight, dice_weight: factors of the three losses.
        no_object_weight: weight of the void class in the classification loss.
        num_points: P; 0 compares masks on every pixel of the ground truth, as in MaskFormer.
        oversample_ratio: candidates per point.
        importance_sample_ratio: share of points taken where the prediction is most uncertain; the rest is uniform.
        focal: the pixel-wise mask loss is the focal one instead of cross-entropy.
    """

    matcher: HungarianMatcher
    class_weight: float
    mask_weight: float
    dice_weight: float
    no_object_weight: float
    num_points: int
    oversample_ratio: float
    importance_sample_ratio: float
    focal: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskLosses:
        """From the keys of `MODEL.MASK_LOSS`."""
        keys = cfg.MODEL.MASK_LOSS
        weights = {
            "class_weight": keys.CLASS_WEIGHT,
            "mask_weight": keys.MASK_WEIGHT,
            "dice_weight": keys.DICE_WEIGHT,
            "num_points": keys.NUM_POINTS,
            "focal": keys.FOCAL,
        }
        return cls(
            matcher=HungarianMatcher(**weights),
            **weights,
            no_object_weight=keys.NO_OBJECT_WEIGHT,
            oversample_ratio=keys.OVERSAMPLE_RATIO,
            importance_sample_ratio=keys.IMPORTANCE_SAMPLE_RATIO,
        )

    def __call__(self, outputs: Sequence[tuple[Tensor, Tensor]], targets: Sequence[MaskTargets]) -> dict[str, Tensor]:
        """Weighted losses `loss_ce`, `loss_mask`, `loss_dice`, with suffix `_0`, `_1`, ... for auxiliary outputs.

        Args:
            outputs: (class logits `[B, Q, C + 1]`, mask logits `[B, Q, h, w]`), the final output first, then auxiliary
                ones; each is matched on its own.
        """
        count = torch.tensor(float(sum(len(t.classes) for t in targets)), device=outputs[0][0].device)
        num_masks = float(mean_over_processes(count).clamp(min=1))
        losses: dict[str, Tensor] = {}
        for index, (class_logits, mask_logits) in enumerate(outputs):
            matches = [self.matcher(c, m, t) for c, m, t in zip(class_logits, mask_logits, targets, strict=True)]
            suffix = "" if index == 0 else f"_{index - 1}"
            mask, dice = self.mask_losses(mask_logits, targets, matches, num_masks)
            losses[f"loss_ce{suffix}"] = self.class_weight * self.class_loss(class_logits, targets, matches)
            losses[f"loss_mask{suffix}"] = self.mask_weight * mask
            losses[f"loss_dice{suffix}"] = self.dice_weight * dice
        return losses

    def class_loss(self, logits: Tensor, targets: Sequence[MaskTargets], matches: Matches) -> Tensor:
        """Cross-entropy over C + 1 classes, weighted mean over all B * Q predictions; unmatched ones should say void."""
        void = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:2], void, dtype=torch.int64, device=logits.device)
        for image, (queries, objects) in enumerate(matches):
            wanted[image, queries] = targets[image].classes[objects]
        weight = logits.new_ones(void + 1)
        weight[void] = self.no_object_weight
        # The weighted mean over all processes: with the total divided here, their mean is what one process would get.
        total = mean_over_processes(weight[wanted].sum())
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight, reduction="sum") / total

    def mask_losses(
        self, logits: Tensor, targets: Sequence[MaskTargets], matches: Matches, num_masks: float
    ) -> tuple[Tensor, Tensor]:
        """Pixel-wise (mean over points) and dice loss per matched mask, summed, divided by `num_masks`."""
        predicted = torch.cat([logits[i, queries] for i, (queries, _) in enumerate(matches)])
        wanted = torch.cat(
            [targets[i].masks[objects.to(targets[i].masks.device)] for i, (_, objects) in enumerate(matches)]
        )
        if len(predicted) == 0:
            # Keeps the graph connected, so that distributed training still sees a gradient for every parameter.
            return logits.sum() * 0, logits.sum() * 0
        sampled, truth = self._compared(predicted.float(), wanted.to(logits.device).float())
        if self.focal:
            positive, negative = focal_terms(sampled)
            error = truth * positive + (1 - truth) * negative
        else:
            error = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none")
        probability = sampled.sigmoid()
        dice = 1 - (2 * (probability * truth).sum(dim=1) + 1) / (probability.sum(dim=1) + truth.sum(dim=1) + 1)
        return error.mean(dim=1).sum() / num_masks, dice.sum() / num_masks

    def _compared(self, predicted: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and truth `[M, P]` where masks `[M, h, w]` are compared with ground truth `[M, H, W]`."""
        if not self.num_points:
            full = F.interpolate(predicted[None], size=wanted.shape[-2:], mode="bilinear", align_corners=False)
            return full[0].flatten(1), wanted.flatten(1)
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                predicted[:, None],
                lambda maps: -maps.abs(),
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            truth = sample_points(wanted, points)
        return sample_points(predicted, points), truth


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a scalar over all processes, without gradient."""
    value = value.detach().clone()
    if comm.get_world_size() > 1:
        dist.all_reduce(value)
        value /= comm.get_world_size()
    return value


def mask_targets(batch: Sequence[dict[str, Any]], padded: tuple[int, int], device: torch.device) -> list[MaskTargets]:
    """Ground truth from `instances` (`gt_classes` `[N]`, `gt_masks` bool `[N, H, W]`), padded to the batch tensor's size.

    Padding and ignored pixels are plain negatives of every mask.
    """
    targets = []
    for entry in batch:
        instances = entry["instances"]
        masks = instances.gt_masks
        masks = masks.tensor if hasattr(masks, "tensor") else masks
        height, width = masks.shape[-2:]
        masks = F.pad(masks.to(device), (0, padded[1] - width, 0, padded[0] - height))
        targets.append(MaskTargets(classes=instances.gt_classes.to(device), masks=masks))
    return targets

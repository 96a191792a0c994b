"""How good mask proposals are, whatever they are called (Hosang et al., "What makes for effective detection proposals?",
PAMI 2016, section 4).

A label's objects are the regions of its classes, one per class and image, as mask generators are trained on semantic sets.
An object's best IoU at k is that of the best of the k proposals with the highest objectness; ignored pixels don't count.

- *AR@k*, average recall: share of objects whose best IoU at k reaches t, averaged over t = 0.5, 0.55, ..., 0.95.
- *best-IoU*: mean over objects of the best IoU of all proposals.

Both over all objects, and over those of seen and of unseen classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure

AT = (10, 50, 100)
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Pixels of one product of proposals and objects; their counts stay exact in single precision.
_PIXELS = 2**20


def mask_ious(masks: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of proposals with the regions of a label map.

    Args:
        masks: bool `[Q, H, W]`.
        labels: int64 `[H, W]`.
        valid: bool `[H, W]`; other pixels count nowhere.

    Returns:
        The classes int64 `[N]` that the map shows, and IoU `[Q, N]`.
    """
    classes, region = labels[valid].unique(return_inverse=True)
    inside = masks[:, valid]
    overlap = torch.zeros(len(masks), len(classes), dtype=torch.float64, device=masks.device)
    for part, where in zip(inside.split(_PIXELS, dim=1), region.split(_PIXELS), strict=True):
        overlap += (part.float() @ F.one_hot(where, len(classes)).float()).double()
    area = torch.bincount(region, minlength=len(classes))
    union = inside.sum(dim=1)[:, None] + area - overlap
    return classes, overlap / union


class ProposalMeasure(Measure):
    """Average recall and best IoU of `proposals` (`pred_masks`, best first) in the outputs."""

    name = "proposals"
    task = "proposals"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self._parts: list[Counts] = []

    def of_image(self, image: EvaluatedImage) -> Counts:
        if "proposals" not in image.output:
            raise UserError("the model gives no mask proposals (it predicts no masks); set TEST.PROPOSALS False")
        masks = image.output["proposals"].pred_masks.to(image.label.device)
        classes, iou = mask_ious(masks, image.label, image.valid)
        best = {f"best_{k}": iou[:k].amax(dim=0).cpu().numpy() for k in AT}
        return {"class": classes.cpu().numpy(), **best, "best_all": iou.amax(dim=0).cpu().numpy()}

    def add(self, counts: Counts) -> None:
        self._parts.append(counts)

    def total(self) -> Counts:
        best = [*(f"best_{k}" for k in AT), "best_all"]
        empty: Counts = {"class": np.empty(0, np.int64), **{key: np.empty(0) for key in best}}
        joined = {key: np.concatenate([empty[key], *(part[key] for part in self._parts)]) for key in empty}
        # Whatever the order of images and processes, sums are the same.
        order = np.lexsort([joined[key] for key in best] + [joined["class"]])
        return {key: values[order] for key, values in joined.items()}

    def figures(self) -> dict[str, float]:
        total = self.total()
        groups = {
            "": np.ones(len(total["class"]), bool),
            "-seen": np.isin(total["class"], self.dataset.seen),
            "-unseen": np.isin(total["class"], self.dataset.unseen),
        }
        figures = {}
        for suffix, chosen in groups.items():
            if not chosen.any():
                continue
            for k in AT:
                figures[f"AR@{k}{suffix}"] = 100 * average_recall(total[f"best_{k}"][chosen])
            figures[f"best-IoU{suffix}"] = 100 * float(total["best_all"][chosen].mean())
        return figures


def average_recall(best: np.ndarray) -> float:
    """Mean over the thresholds of the share of `best` IoUs `[N]` that reach them."""
    # A hair below, so that 0.6 reaches the threshold that floating point calls 0.6000000000000001.
    return float((best[:, None] >= _THRESHOLDS - 1e-9).mean())

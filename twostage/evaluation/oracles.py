"""Why a label map is wrong: mask error against classification error, and what oracles would bring.

A *region* is a 4-connected set of pixels of one value. `renamed(regions, names)` gives every region of one map the value
that most of its valid pixels have in another map (of equals the smallest). With the label g, the prediction p and N valid
pixels, everything weighted by area:

- *error* E: share of pixels with p != g (1 - pACC).
- *mask error*: share of pixels with renamed(p, g) != g, that is the error that stays when each predicted region gets the
  best single name it can have: only its shape is to blame.
- *classification error*: E - mask error, what naming the predicted regions right would repair. It is never negative,
  because the name a region has cannot fit more of its pixels than the best one.

Oracles, each a whole confusion matrix of its own:

- *oracle names*: renamed(p, g), predicted regions with the names of the ground truth (bound by the masks).
- *oracle regions*: renamed(g, p), the ground truth's regions with the name that is predicted for most of their pixels
  (bound by the classification).
- *oracle classes*: the system's own prediction when it is told which classes the image shows and knows no other
  (`sem_seg_labels_oracle` in the outputs, see `twostage.evaluation.oracle_classes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skimage.measure import label as connected_regions
from torch import Tensor

from twostage.evaluation.confusion import ConfusionMatrix
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure, count_pairs
from twostage.evaluation.metrics import semantic_figures

ORACLES = ("names", "regions", "classes")
# Figures of an oracle that the results file keeps.
_KEPT = ("mIoU", "mIoU-seen", "mIoU-unseen", "mIoU-harmonic", "pACC")


def renamed(regions: np.ndarray, names: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """int64 `[H, W]`: each 4-connected region of `regions` with the most frequent value of `names` in it.

    Args:
        regions: `[H, W]`, integers >= 0.
        names: `[H, W]`, integers >= 0 where `valid`.
        valid: bool `[H, W]`, pixels that have a say. A region without any keeps its own value.
    """
    # Numbered from 1; no pixel counts as background.
    region_of, count = connected_regions(regions, background=-1, connectivity=1, return_num=True)
    base = int(names[valid].max(initial=0)) + 1
    codes, pixels = np.unique(region_of[valid].astype(np.int64) * base + names[valid], return_counts=True)
    region, name = np.divmod(codes, base)
    # By region, then most pixels first; equals stay in the order of their names.
    order = np.lexsort((name, -pixels, region))
    region, first = np.unique(region[order], return_index=True)
    name_of = np.full(count + 1, -1, np.int64)
    name_of[region] = name[order][first]
    result = name_of[region_of]
    return np.where(result < 0, regions, result)


class OracleMeasure(Measure):
    """Mask and classification error, and the oracles' confusion matrices; see the module's text."""

    name = "oracles"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        self._pixels = np.zeros(3, np.int64)  # valid, wrong, wrong with oracle names
        self._matrices = {oracle: ConfusionMatrix(dataset.num_classes) for oracle in ORACLES}

    def of_image(self, image: EvaluatedImage) -> Counts:
        prediction, label, valid = (x.cpu().numpy() for x in (image.prediction, image.label, image.valid))
        maps: dict[str, Tensor] = {
            "names": torch.from_numpy(renamed(prediction, label, valid)).to(image.label.device),
            "regions": torch.from_numpy(renamed(label, prediction, valid)).to(image.label.device),
        }
        if "sem_seg_labels_oracle" in image.output:
            maps["classes"] = self.dataset.to_classes(image.output["sem_seg_labels_oracle"].long())
        counts: Counts = {}
        for oracle, labels in maps.items():
            pairs = count_pairs(labels, image, self.dataset.num_classes)
            counts |= {f"{oracle}_{key}": value for key, value in pairs.items()}
        wrong = [int(((x != image.label) & image.valid).sum()) for x in (image.prediction, maps["names"])]
        counts["pixels"] = np.array([int(image.valid.sum()), *wrong])
        return counts

    def add(self, counts: Counts) -> None:
        self._pixels += counts["pixels"]
        for oracle, matrix in self._matrices.items():
            if f"{oracle}_codes" in counts:
                matrix.add(counts[f"{oracle}_codes"], counts[f"{oracle}_counts"])

    def total(self) -> Counts:
        counts: Counts = {"pixels": self._pixels}
        for oracle, matrix in self._matrices.items():
            counts[f"{oracle}_codes"], counts[f"{oracle}_counts"] = matrix.pairs()
        return counts

    def figures(self) -> dict[str, float]:
        valid, wrong, wrong_masks = self._pixels.tolist()
        if not valid:
            return {}
        return {
            "error": 100 * wrong / valid,
            "mask-error": 100 * wrong_masks / valid,
            "classification-error": 100 * (wrong - wrong_masks) / valid,
        }

    def record(self) -> dict[str, Any]:
        rows = {}
        for oracle, matrix in self._matrices.items():
            if not matrix.pairs()[0].size:
                continue
            figures = semantic_figures(matrix, seen=self.dataset.seen, unseen=self.dataset.unseen)
            percent = figures.as_percent(self.dataset.class_names)
            rows[oracle] = {key: percent[key] for key in _KEPT if key in percent}
        return {"errors": self.figures(), "oracles": rows}

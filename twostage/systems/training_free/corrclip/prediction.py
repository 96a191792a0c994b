"""Labels of CorrCLIP: each mask takes the label that most of its pixels have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from twostage.inference.resampling import Size
from twostage.systems.mask_sources.contract import fitted_labels
from twostage.systems.training_free.corrclip.scope import majority_labels
from twostage.systems.training_free.dense_clip.prediction import NamePrediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedPrediction(NamePrediction):
    """Similarities with every name, and the masks of each picture.

    Attributes:
        masks: label maps int64 `[H, W]` at the pictures' own sizes; the lowest value is no mask.
    """

    masks: Sequence[Tensor]

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Label of each pixel, int64 `[height, width]` per image."""
        corrected = []
        for labels, masks in zip(super().label_maps(sizes), self.masks, strict=True):
            corrected.append(
                majority_labels(labels, fitted_labels(masks, (labels.shape[0], labels.shape[1])), self.num_classes)
            )
        return corrected

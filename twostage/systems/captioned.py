"""What systems share that learn from image-caption pairs alone."""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from twostage.errors import UserError
from twostage.segmenter import OpenVocabularySegmenter


class CaptionLearner(OpenVocabularySegmenter[Any, Any]):
    """A system whose training reads pictures and captions, and no vocabulary or label map."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses of image-caption pairs in training, else as in the contract."""
        if not self.training:
            return super().forward(batch)
        if any("caption" not in entry for entry in batch):
            raise UserError(
                f"{type(self).__name__} trains on image-caption pairs, which DATASETS.TRAIN does not hold; use e.g. "
                "('toybox_captions',)"
            )
        return self.caption_losses(batch)

    @abc.abstractmethod
    def caption_losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Weighted losses of a batch of pairs (`image` uint8 `[3, S, S]`, `caption`, `superpixels` int64 `[S, S]`)."""

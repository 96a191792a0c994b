"""The head that mask-classification systems share: embeddings of masks, compared with text embeddings and one for void.

Legend: B images, Q masks, C classes, N names (synonyms apart), D embedding size, h x w grid of the masks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.regions.contract import Regions
from twostage.predictions.geometry import Geometry
from twostage.proposals.losses import MaskLosses, mask_targets

# Factors of cosine similarities stay below this, as in CLIP.
_LARGEST_SCALE = 100.0


class DenseCLIP(NamedTuple):
    """CLIP's last stage `res5` `[B, C, h, w]` and what its head makes of it, `embeddings` `[B, D, h, w]`."""

    res5: Tensor
    embeddings: Tensor


class EncodedMasks(NamedTuple):
    """What a system knows about images without the vocabulary.

    Attributes:
        outputs: (mask logits `[B, Q, h, w]`, mask embeddings `[B, Q, D]`), the final output first, in training followed by
            auxiliary ones.
        geometry: where the masks lie.
        regions: what CLIP sees in the final masks, `[B, Q, D]` and `[B, Q]`; None in training, and where it does not look.
        dense: what CLIP sees everywhere; None but for systems that read it again with the text, or in their losses.
    """

    outputs: list[tuple[Tensor, Tensor]]
    geometry: Geometry
    regions: Regions | None = None
    dense: DenseCLIP | None = None


@dataclasses.dataclass(frozen=True)
class TextClassifier:
    """Logits as scalar products of embeddings with `rows` `[C + 1, D]`: one per class and, last, one for void."""

    rows: Tensor

    @classmethod
    def scaled(cls, text: Tensor, void: Tensor, scale: Tensor | float = 1.0) -> TextClassifier:
        """Rows are unit text embeddings `[C, D]` and `void` `[1, D]`, which is made of unit length, times `scale`."""
        return cls(scale * torch.cat([text, F.normalize(void, dim=-1)]))

    def __call__(self, embeddings: Tensor) -> Tensor:
        """`[B, Q, D]` -> logits `[B, Q, C + 1]`."""
        return embeddings @ self.rows.T

    def classes(self, embeddings: Tensor) -> Tensor:
        """`[B, Q, D]` -> logits of the classes alone, `[B, Q, C]`."""
        return embeddings @ self.rows[:-1].T


def synonym_logits(embeddings: Tensor, names: Tensor, classes: Tensor, logit_scale: Tensor, num_classes: int) -> Tensor:
    """Logits `[B, Q, C]`: of each class the best of its names (FC-CLIP, Yu et al., NeurIPS 2023).

    Args:
        embeddings: `[B, Q, D]`, of any length.
        names: unit text embeddings `[N, D]`, or embeddings of any length `[B, N, D]` of each image's own.
        classes: class of each name, int64 `[N]`, every class from 0 on at least once.
        logit_scale: logarithm of the factor of the cosine similarities.
        num_classes: C.
    """
    scale = logit_scale.exp().clamp(max=_LARGEST_SCALE)
    per_name = scale * F.normalize(embeddings, dim=-1) @ names.mT
    shape = (*per_name.shape[:-1], num_classes)
    return per_name.new_full(shape, float("-inf")).scatter_reduce(-1, classes.expand_as(per_name), per_name, "amax")


def mask_losses(
    criterion: MaskLosses, encoded: EncodedMasks, classify: Callable[[Tensor], Tensor], batch: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Losses of all outputs against the `instances` of `batch`; `classify` makes class logits of embeddings."""
    outputs = [(classify(embeddings), masks) for masks, embeddings in encoded.outputs]
    targets = mask_targets(batch, encoded.geometry.padded, outputs[0][0].device)
    return criterion(outputs, targets)

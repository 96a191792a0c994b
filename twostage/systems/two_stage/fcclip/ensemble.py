"""How FC-CLIP joins the decoder's classes with those of frozen CLIP (FC-CLIP, Yu et al., NeurIPS 2023, section 3.2).

Legend: B images, Q masks, C classes, N names (synonyms apart).
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps the logarithm of a probability finite.
_EPS = 1e-8
# Factors of cosine similarities stay below this, as in CLIP.
_LARGEST_SCALE = 100.0


def synonym_logits(embeddings: Tensor, names: Tensor, classes: Tensor, logit_scale: Tensor) -> Tensor:
    """Logits `[B, Q, C]`: of each class the best of its names.

    Args:
        embeddings: `[B, Q, D]`, of any length.
        names: unit text embeddings `[N, D]`.
        classes: class of each name, int64 `[N]`, every class from 0 on at least once.
        logit_scale: logarithm of the factor of the cosine similarities.
    """
    scale = logit_scale.exp().clamp(max=_LARGEST_SCALE)
    per_name = scale * F.normalize(embeddings, dim=-1) @ names.T
    shape = (*per_name.shape[:-1], int(classes.max()) + 1)
    return per_name.new_full(shape, float("-inf")).scatter_reduce(-1, classes.expand_as(per_name), per_name, "amax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometricEnsemble:
    """in^(1 - w) * out^w of the two softmaxes, w depending on whether a class was trained; void is the decoder's.

    Attributes:
        seen_weight, unseen_weight: CLIP's share w for classes of the training set, and for others (alpha and beta).
        valid_only: masks without a cell on CLIP's grid keep the decoder's classes.
    """

    seen_weight: float
    unseen_weight: float
    valid_only: bool

    def __call__(self, decoder: Tensor, clip: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        """Logarithms of joined probabilities `[B, Q, C + 1]`, void last.

        Args:
            decoder, clip: logits `[B, Q, C + 1]`, void last; CLIP's void is not used.
            seen: bool `[C]`, classes of the training set.
            valid: bool `[B, Q]`, masks that are not empty for CLIP.
        """
        share = torch.where(seen, self.seen_weight, self.unseen_weight).to(decoder.dtype)
        log_decoder, log_clip = decoder[..., :-1].log_softmax(dim=-1), clip[..., :-1].log_softmax(dim=-1)
        joined = (1 - share) * log_decoder + share * log_clip
        if self.valid_only:
            joined = torch.where(valid[..., None], joined, log_decoder)
        void = decoder.softmax(dim=-1)[..., -1:]
        return (torch.cat([joined.softmax(dim=-1) * (1 - void), void], dim=-1) + _EPS).log()

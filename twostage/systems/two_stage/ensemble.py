"""How two-stage systems join the class scores of a mask generator with CLIP's: weighted geometric means.

Two forms are published. zsseg's (Xu et al., ECCV 2022, section 3.4), also OVSeg's and SCAN's, is a product of probabilities
that is not normalised again; FC-CLIP's (Yu et al., NeurIPS 2023, section 3.2) a softmax of logarithms that keeps the
generator's void.

Legend: B images, Q masks, C classes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# Keeps the logarithm of a probability finite.
_EPS = 1e-8


def ensemble_weights(
    generator: Tensor, clip: Tensor, valid: Tensor, weight: float, seen: Tensor | None = None
) -> Tensor:
    """Class weights `[B, Q, C]`: generator^(1 - w) * clip^w, not normalised again.

    An empty mask has no CLIP score and counts as clip = 1, so that its numbers grow. `weight` 0 means CLIP alone, and
    empty masks are left out (rows of zeros); so w = 0 is not the limit of small w, which is the generator alone.

    Args:
        generator: probabilities `[B, Q, C]`, those of C + 1 classes without void.
        clip: probabilities `[B, Q, C]`.
        valid: bool `[B, Q]`, False for empty masks.
        seen: bool `[C]`, classes that the generator was trained on; for these the two swap their exponents (zsseg).
    """
    shown = valid[..., None]
    if weight == 0:
        return torch.where(shown, clip, 0)
    share = torch.full_like(clip[0, 0], weight)
    if seen is not None:
        share = torch.where(seen, 1 - share, share)
    return generator ** (1 - share) * torch.where(shown, clip, 1) ** share


def weigh_against_void(weights: Tensor, void: Tensor) -> Tensor:
    """Class weights `[B, Q, C]` made to sum to what `void` `[B, Q, 1]` leaves (SCAN's code, which does it in logarithms).

    The published form is softmax(log([softmax(log weights) * (1 - void), void] + 1e-8)) without its last column.
    """
    joined = _with_void(weights / weights.sum(dim=-1, keepdim=True), void)
    return (joined / joined.sum(dim=-1, keepdim=True))[..., :-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometricEnsemble:
    """in^(1 - w) * out^w of the two softmaxes, w depending on whether a class was trained (FC-CLIP; ODISE, Xu et al., CVPR
    2023, section 3.6).

    Attributes:
        seen_weight, unseen_weight: CLIP's share w for classes of the training set, and for others (alpha and beta).
        valid_only: masks without a cell on CLIP's grid keep the decoder's classes.
    """

    seen_weight: float
    unseen_weight: float
    valid_only: bool = False

    def __call__(self, decoder: Tensor, clip: Tensor, seen: Tensor, valid: Tensor) -> Tensor:
        """Logarithms of joined probabilities `[B, Q, C + 1]`, void last and the decoder's.

        Args:
            decoder, clip: logits `[B, Q, C + 1]`, void last; CLIP's void is not used.
            seen: bool `[C]`, classes of the training set.
            valid: bool `[B, Q]`, masks that are not empty for CLIP.
        """
        joined = self.join(decoder[..., :-1], clip[..., :-1], seen)
        if self.valid_only:
            joined = torch.where(valid[..., None], joined, decoder[..., :-1].log_softmax(dim=-1))
        return self.against_void(joined, decoder.softmax(dim=-1)[..., -1:])

    def join(self, decoder: Tensor, clip: Tensor, seen: Tensor) -> Tensor:
        """Logarithms `[B, Q, C]` of joined probabilities, which do not add up to one.

        Args:
            decoder, clip: logits `[B, Q, C]`, without void.
            seen: bool `[C]`, classes of the training set.
        """
        share = torch.where(seen, self.seen_weight, self.unseen_weight).to(decoder.dtype)
        return (1 - share) * decoder.log_softmax(dim=-1) + share * clip.log_softmax(dim=-1)

    @staticmethod
    def against_void(joined: Tensor, void: Tensor) -> Tensor:
        """Logarithms of probabilities `[B, Q, C + 1]`, void last: the classes share what `void` `[B, Q, 1]` leaves."""
        return _with_void(joined.softmax(dim=-1), void).log()


def _with_void(classes: Tensor, void: Tensor) -> Tensor:
    """Probabilities `[B, Q, C + 1]`: `classes` `[B, Q, C]` share what `void` `[B, Q, 1]` leaves; none is exactly zero."""
    return torch.cat([classes * (1 - void), void], dim=-1) + _EPS

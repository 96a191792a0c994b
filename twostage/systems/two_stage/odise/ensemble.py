"""How ODISE joins the classes of its head with those of frozen CLIP (ODISE, Xu et al., CVPR 2023, section 3.6).

Legend: B images, Q masks, C classes.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

# Keeps the logarithm of a probability finite.
_EPS = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectEnsemble:
    """head^(1 - w) * clip^w of the two softmaxes, w depending on whether a class was trained; void comes from elsewhere.

    Attributes:
        seen_weight, unseen_weight: CLIP's share w for classes of the training set, and for others (alpha and beta).
    """

    seen_weight: float
    unseen_weight: float

    def joined(self, head: Tensor, clip: Tensor, seen: Tensor) -> Tensor:
        """Logarithms `[B, Q, C]` of joined probabilities, which do not add up to one.

        Args:
            head, clip: logits `[B, Q, C]`, without void.
            seen: bool `[C]`, classes of the training set.
        """
        share = torch.where(seen, self.seen_weight, self.unseen_weight).to(head.dtype)
        return (1 - share) * head.log_softmax(dim=-1) + share * clip.log_softmax(dim=-1)

    def __call__(self, head: Tensor, clip: Tensor, seen: Tensor, void: Tensor) -> Tensor:
        """Logarithms of joined probabilities `[B, Q, C + 1]`, void last.

        Args:
            void: probability `[B, Q, 1]` that a mask is no object.
        """
        joined = self.joined(head, clip, seen).softmax(dim=-1)
        return (torch.cat([joined * (1 - void), void], dim=-1) + _EPS).log()

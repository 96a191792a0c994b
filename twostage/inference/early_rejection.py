"""Category early rejection: classes that no pixel ranks among its first k at an early stage are left out of the later ones.

SED (Xie et al., CVPR 2024, section 3.3); any system with dense class logits can use it. Classes come in blocks, and all
that is remembered of them is a buffer of k logits and class indices per pixel, so memory does not depend on how many
there are.

Legend: k kept per pixel, c classes of a block, C all classes, K kept classes, h x w grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor


class EarlyRejection:
    """The rule: a class survives where at least one pixel has it among its `top_k` best.

    >>> EarlyRejection(top_k=1).kept([torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 1.0]]])])
    tensor([0, 1])
    """

    def __init__(self, *, top_k: int) -> None:
        self.top_k = top_k

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EarlyRejection | None:
        """The rule of `TEST.EARLY_REJECTION`, None where it is off."""
        keys = cfg.TEST.EARLY_REJECTION
        return cls(top_k=keys.TOP_K) if keys.ENABLED else None

    def kept(self, blocks: Iterable[Tensor]) -> Tensor:
        """Surviving classes, ascending int64 `[K]`, from logits that come as blocks `[c, h, w]` in the order of classes.

        At most `k * h * w` and at least `min(k, C)` classes survive. Between equal logits the choice is arbitrary.
        """
        values: Tensor | None = None
        classes: Tensor | None = None
        first = 0
        for block in blocks:
            found, index = block.topk(min(self.top_k, len(block)), dim=0)
            index = index + first
            first += len(block)
            if values is not None and classes is not None:
                found, index = torch.cat([values, found]), torch.cat([classes, index])
                found, best = found.topk(min(self.top_k, len(found)), dim=0)
                index = index.gather(0, best)
            values, classes = found, index
        assert classes is not None, "a vocabulary has at least one class"
        return torch.unique(classes)


def stack_kept(scores: Sequence[Tensor], kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores `[K_i, h, w]` and kept classes `[K_i]` of images as one batch: `[B, K, h, w]` and `[B, K]`.

    An image with fewer kept classes than another repeats its last one, which changes neither scores nor label maps.
    """
    most = max(len(k) for k in kept)
    index = [torch.arange(most, device=k.device).clamp(max=len(k) - 1) for k in kept]
    return (
        torch.stack([s[i] for s, i in zip(scores, index, strict=True)]),
        torch.stack([k[i] for k, i in zip(kept, index, strict=True)]),
    )

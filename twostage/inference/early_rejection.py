"""Early rejection: classes that no pixel, or only few pixels, rank high at an early stage are left out of the later ones.

Two rules, for any system with dense class logits: the best of each pixel survive (SED, Xie et al., CVPR 2024, section 3.3),
or the pixels vote (ERR-Seg, Chen et al., Neurocomputing 2025). Classes come in blocks, and all that is remembered of them is
a buffer of k logits and class indices per pixel, so memory does not depend on how many there are.

Legend: k kept per pixel, c classes of a block, C all classes, K kept classes, h x w grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor

# Votes of a pixel for its best class, the second and the third.
VOTES = (1.0, 0.1, 0.01)


class EarlyRejection:
    """The rule: a class survives where at least one pixel has it among its `top_k` best.

    >>> EarlyRejection(top_k=1).kept([torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 1.0]]])])
    tensor([0, 1])
    """

    def __init__(self, *, top_k: int) -> None:
        self.top_k = top_k

    @staticmethod
    def from_config(cfg: CfgNode) -> EarlyRejection | None:
        """The rule of `TEST.EARLY_REJECTION`, None where it is off."""
        keys = cfg.TEST.EARLY_REJECTION
        if not keys.ENABLED:
            return None
        return PixelVotes(slots=keys.SLOTS) if keys.RULE == "votes" else EarlyRejection(top_k=keys.TOP_K)

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


class PixelVotes(EarlyRejection):
    """The rule: each pixel votes for its three best classes, and the `slots` classes with most votes survive.

    A pixel gives 1, 0.1 and 0.01 votes. Between equal logits at a pixel, and between equal votes, the lower class index
    goes first.

    >>> PixelVotes(slots=2).kept([torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[0.0, 1.0]]])])
    tensor([0, 1])
    """

    def __init__(self, *, slots: int) -> None:
        super().__init__(top_k=len(VOTES))
        self.slots = slots

    def kept(self, blocks: Iterable[Tensor]) -> Tensor:
        """Surviving classes, ascending int64 `[min(slots, C)]`, see `EarlyRejection.kept`."""
        return self.elected(self.votes(blocks))

    def elected(self, votes: Tensor) -> Tensor:
        """The classes with most of `votes` `[C]`, ascending int64 `[min(slots, C)]`."""
        return votes.sort(descending=True, stable=True).indices[: self.slots].sort().values

    def votes(self, blocks: Iterable[Tensor]) -> Tensor:
        """float32 `[C]` of logits that come as blocks `[c, h, w]`."""
        values: Tensor | None = None
        classes: Tensor | None = None
        first = 0
        for block in blocks:
            index = torch.arange(first, first + len(block), device=block.device)
            index = index.view(-1, *[1] * (block.ndim - 1)).expand_as(block)
            first += len(block)
            if values is not None and classes is not None:
                # What is kept of earlier blocks stands in front, so that of equals the lower class stays first.
                block, index = torch.cat([values, block]), torch.cat([classes, index])
            values, best = _best_of_pixels(block, self.top_k)
            classes = index.gather(0, best)
        assert classes is not None, "a vocabulary has at least one class"
        # Counted first and weighted afterwards: sums of whole numbers are exact, so equal votes are equal numbers.
        counts = [torch.bincount(rank.flatten(), minlength=first).float() for rank in classes]
        votes = torch.zeros(first, device=classes.device)
        for count, weight in zip(counts, VOTES, strict=False):
            votes = votes + count * weight
        return votes


def _best_of_pixels(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best values along the first axis and where they lie, `[count, h, w]` each; of equals the first."""
    rest, values, places = logits.detach().clone(), [], []
    for _ in range(min(count, len(logits))):
        # Unlike `topk`, `max` says which of equals it takes.
        value, place = rest.max(dim=0, keepdim=True)
        values.append(value)
        places.append(place)
        rest.scatter_(0, place, float("-inf"))
    return torch.cat(values), torch.cat(places)


def stack_kept(scores: Sequence[Tensor], kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Scores `[K_i, h, w]` and kept classes `[K_i]` of images as one batch: `[B, K, h, w]` and `[B, K]`.

    An image with fewer kept classes than another repeats its last one, which changes neither scores nor label maps.
    """
    if len(scores) == 1:
        return scores[0][None], kept[0][None]
    most = max(len(k) for k in kept)
    index = [torch.arange(most, device=k.device).clamp(max=len(k) - 1) for k in kept]
    return (
        torch.stack([s[i] for s, i in zip(scores, index, strict=True)]),
        torch.stack([k[i] for k, i in zip(kept, index, strict=True)]),
    )

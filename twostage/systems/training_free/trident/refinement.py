"""Labels sharpened by SAM: what it makes of each region's prompts takes the place of the region (Trident's refinement).

Legend: C classes, H x W the output, R regions of a class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.foundation.sam import Sam
from twostage.foundation.sam_pictures import fitted, masks_at_size
from twostage.inference.resampling import Size
from twostage.systems.training_free.trident.prompts import PromptRule, Questions, dense_prompt

# Class -> its probability `[H, W]`.
ClassProbability = Callable[[int], Tensor]


class SamView(NamedTuple):
    """SAM's embedding `[1, 256, h, w]` of a picture, and the size that its square was made from."""

    embedding: Tensor
    picture: Size


class Answer(NamedTuple):
    """What SAM makes of one class: a value for each pixel `[H, W]`, 0 outside its masks; None where no region is believed.
    And where its other regions lie, bool `[h, w]` at half the size."""

    values: Tensor | None
    failed: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refiner:
    """Asks SAM about the regions of a label map.

    Attributes:
        rule: which regions are asked about.
        least_iou: regions with a lower predicted IoU are left as they are.
    """

    sam: Sam
    rule: PromptRule
    least_iou: float

    def answers(self, view: SamView, coarse: Tensor, probability: ClassProbability) -> Iterator[tuple[int, Answer]]:
        """Class after class.

        Args:
            coarse: labels int64 at half the size, -1 for pixels that no class is likely at.
        """
        half = (coarse.shape[0], coarse.shape[1])
        for number in coarse[coarse >= 0].unique().tolist():
            whole = probability(number)
            small = F.interpolate(whole[None, None], size=half, mode="bilinear", align_corners=False)[0, 0]
            size = (whole.shape[0], whole.shape[1])
            asked = self.rule.questions(coarse, number, small, picture=size, side=self.sam.side)
            if asked is not None:
                yield number, self._answer(view, asked, whole)

    def ask(self, view: SamView, asked: Questions) -> tuple[Tensor, Tensor]:
        """Mask logits `[R, 1, h, w]` and predicted IoUs `[R]` of SAM's single mask for each region."""
        sparse = self.sam.embed_points(asked.points, asked.boxes)
        logits, scores = self.sam.decode_single(view.embedding, sparse, dense_prompt(self.sam, asked.mask))
        return logits, scores[:, 0]

    def _answer(self, view: SamView, asked: Questions, whole: Tensor) -> Answer:
        logits, scores = self.ask(view, asked)
        believed = scores > self.least_iou
        failed = asked.regions[~believed].any(dim=0)
        if not believed.any():
            return Answer(None, failed)
        at_picture = masks_at_size(
            logits[believed], inside=fitted(view.picture, self.sam.side), size=view.picture, side=self.sam.side
        )
        size = (whole.shape[0], whole.shape[1])
        if view.picture != size:
            at_picture = F.interpolate(at_picture, size=size, mode="bilinear", align_corners=False)
        sure = at_picture[:, 0].sigmoid().amax(dim=0)
        return Answer((sure * whole).where((at_picture[:, 0] > 0).any(dim=0), 0.0), failed)


def coarse_labels(labels: Tensor, best: Tensor, least: float) -> Tensor:
    """Labels `[H, W]` at half the size, -1 where the best class's probability there, `best` `[h, w]`, is below `least`."""
    half = F.interpolate(labels[None, None].double(), size=best.shape, mode="nearest")[0, 0].long()
    return torch.where(best < least, -1, half)

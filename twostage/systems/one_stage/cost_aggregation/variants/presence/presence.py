"""Which classes an image shows, trained beside a cost-aggregation system, and the filter that spares it the others.

Legend: B images (or views), T classes, P templates, D embedding size, h x w grid.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from twostage.inference import blocks
from twostage.systems.one_stage.cost_aggregation.variants.presence.cross_attention import CrossAttentionHead
from twostage.systems.one_stage.cost_aggregation.variants.presence.losses import (
    asymmetric_loss,
    binary_loss,
    present_classes,
)
from twostage.systems.one_stage.cost_aggregation.variants.presence.ml_decoder import MLDecoderHead


class Presence(nn.Module):
    """A presence head with its loss and its filter.

    It reads detached embeddings, as SED's early heads do (section 3.3): the system it stands beside gets the gradients that it
    gets without it (clipping by the norm of the whole model's gradient sees the head's, too).
    """

    def __init__(
        self,
        *,
        head: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        weight: float,
        threshold: float,
        least: int,
        group_size: int = 1,
    ) -> None:
        """
        Args:
            head: pixels `[B, N, D]` and text `[T, D]`, of unit length, to logits `[B, T]`.
            criterion: logits and targets, both `[B, T]`, to a loss.
            weight: of the loss.
            threshold: probability from which on a class stays; 0 keeps all.
            least: so many of the most probable classes stay in any case.
            group_size: classes that the head looks at together.
        """
        super().__init__()
        self.head = head
        self.criterion = criterion
        self.weight = weight
        self.threshold = threshold
        self.least = least
        self.group_size = group_size

    @classmethod
    def from_config(cls, cfg: CfgNode, embedding: int) -> Presence:
        """As `MODEL.PRESENCE` says, for embeddings of size `embedding`."""
        keys = cfg.MODEL.PRESENCE
        shared = {"embedding": embedding, "channels": keys.CHANNELS, "heads": keys.HEADS}
        head: nn.Module
        if keys.HEAD == "ml_decoder":
            head = MLDecoderHead(**shared, group_size=keys.GROUP_SIZE)
        else:
            head = CrossAttentionHead(**shared)
        return cls(
            head=head,
            criterion=asymmetric_loss if keys.LOSS == "asymmetric" else binary_loss,
            weight=keys.WEIGHT,
            threshold=keys.THRESHOLD,
            least=keys.LEAST,
            group_size=keys.GROUP_SIZE,
        )

    def forward(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """Logits `[B, T]` of dense embeddings `[B, D, h, w]` and text embeddings `[T, P, D]`."""
        pixels = F.normalize(embeddings.detach(), dim=1).flatten(2).transpose(1, 2)
        return self.head(pixels, F.normalize(text.detach().mean(dim=1), dim=-1))

    def losses(self, embeddings: Tensor, text: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`loss_presence` for label maps `[B, H, W]`: a class is present where at least one pixel has it."""
        logits = self(embeddings, text)
        return {"loss_presence": self.weight * self.criterion(logits, present_classes(labels, logits.shape[1]))}

    def kept(self, embeddings: Tensor, text: Tensor) -> Tensor | None:
        """Classes to go on with, ascending int64 `[K]`: those probable in some image of the batch; None for all.

        What is left out gets the score of a class that was rejected early (see `inference/early_rejection.py`).
        """
        if self.threshold == 0:
            return None
        # Whole groups at a time, so that what the head holds inside does not grow with the vocabulary.
        step = max(1, blocks.CLASS_BLOCK // self.group_size) * self.group_size
        probability = torch.cat([self(embeddings, part).amax(dim=0) for part in text.split(step)]).sigmoid()
        stays = probability >= self.threshold
        stays[probability.topk(min(self.least, len(probability))).indices] = True
        return stays.nonzero()[:, 0]

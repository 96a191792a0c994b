"""Whether a system that is about to be used still has the random numbers that training would have replaced."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from torch import nn

logger = logging.getLogger(__name__)


def untrained_parameters(model: nn.Module, cfg: CfgNode) -> int:
    """How many numbers of `model` are what training sets and nobody has given: 0 with `MODEL.WEIGHTS`.

    Nor do those count which are never read because masks come from elsewhere (`MODEL.MASKS.SOURCE`).
    """
    if cfg.MODEL.WEIGHTS or cfg.MODEL.MASKS.SOURCE != "own":
        return 0
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def warn_if_untrained(model: nn.Module, cfg: CfgNode) -> None:
    """Say that results mean nothing where a system that must be trained is used without weights."""
    count = untrained_parameters(model, cfg)
    if count:
        logger.warning(
            "%s is used without weights: %s of its parameters, which training sets, are random, and results mean nothing. "
            "Give weights (--weights FILE or official, MODEL.WEIGHTS), or train it first",
            cfg.MODEL.META_ARCHITECTURE,
            f"{count:,}",
        )

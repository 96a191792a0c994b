"""Models by name."""

from __future__ import annotations

import torch
from torch import nn

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

__all__ = ["META_ARCH_REGISTRY", "build_model"]

# Entries are called with (cfg) and return a module that maps a list of dicts to losses or predictions.
META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg: CfgNode) -> nn.Module:
    """The model `cfg.MODEL.META_ARCHITECTURE` on `cfg.MODEL.DEVICE`; `cfg.MODEL.WEIGHTS` is not loaded."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))

"""From a config to a model: the system's modules are imported here and nowhere earlier."""

from __future__ import annotations

import importlib

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling import build_model as build_registered
from torch import nn

from twostage.errors import UserError, near_names
from twostage.systems.cards import all_cards, card_of


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of `MODEL.META_ARCHITECTURE`, on `MODEL.DEVICE`.

    Raises:
        UserError: no card and nothing that was registered has this name.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    card = card_of(name)
    if card is not None:
        importlib.import_module(card.module)
    elif name not in META_ARCH_REGISTRY:
        known = sorted({card.meta_architecture for card in all_cards()})
        raise UserError(f"MODEL.META_ARCHITECTURE is {name!r}{near_names(name, known)}; there are: {', '.join(known)}")
    return build_registered(cfg)

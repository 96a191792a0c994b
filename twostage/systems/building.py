"""From a config to a model: the system's modules are imported here and nowhere earlier."""

from __future__ import annotations

import importlib

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling import build_model as build_registered
from torch import nn

from twostage.errors import UserError
from twostage.systems.cards import cards_of, is_installed, unknown_architecture


def build_model(cfg: CfgNode) -> nn.Module:
    """The model of `MODEL.META_ARCHITECTURE`, on `MODEL.DEVICE`.

    Raises:
        UserError: no card and nothing that was registered has this name, or an installed system can't be imported.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    cards = cards_of(name)
    if cards:
        try:
            importlib.import_module(cards[0].module)
        except ImportError as error:
            if not is_installed(cards[0]):
                raise
            raise UserError(f"the installed system {cards[0].name} can't be imported: {error}; update it") from error
    if name not in META_ARCH_REGISTRY:
        if cards:
            raise UserError(f"{cards[0].module} does not register {name!r} in META_ARCH_REGISTRY, as its card says")
        raise unknown_architecture(name)
    return build_registered(cfg)

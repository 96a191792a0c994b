"""Keys of GroupViT."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.GROUPVIT = CN()
    # A folder in transformers' layout (config.json, model.safetensors) or a repository of its hub: which network, and its
    # weights where MODEL.WEIGHTS names none. "": the published network, at random.
    cfg.MODEL.GROUPVIT.PRETRAINED = ""
    # Where a vocabulary begins with "background": groups whose best affinity is below this are background.
    cfg.MODEL.GROUPVIT.BACKGROUND_THRESHOLD = 0.95


GROUPS = (KeyGroup(add=_add, fraction=("MODEL.GROUPVIT.BACKGROUND_THRESHOLD",)),)

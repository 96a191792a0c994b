"""Every config key that twostage adds to Detectron2's, once, with its meaning: one module per room or system.

`load_config` is the only way tools build a config.
"""

from twostage.config.clip import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from twostage.config.group import KeyGroup
from twostage.config.loading import add_twostage_config, all_keys, default_config, get_key, load_config, validate_config
from twostage.config.machine import datasets_root, resolve_device

__all__ = [
    "CLIP_PIXEL_MEAN",
    "CLIP_PIXEL_STD",
    "KeyGroup",
    "add_twostage_config",
    "all_keys",
    "datasets_root",
    "default_config",
    "get_key",
    "load_config",
    "resolve_device",
    "validate_config",
]

"""Every config key that twostage adds to Detectron2's, once, with its meaning: one module per room or system.

`load_config` is the only way tools build a config.
"""

from twostage.config.loading import add_twostage_config, default_config, load_config, validate_config
from twostage.keys import all_keys, get_key

__all__ = [
    "add_twostage_config",
    "all_keys",
    "default_config",
    "get_key",
    "load_config",
    "validate_config",
]

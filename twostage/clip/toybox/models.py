"""Makes the tiny toybox CLIPs known to open_clip and timm, and holds their small tokenizer.

>>> register_toybox_models()
>>> model = open_clip.create_model("toybox-vit")
>>> tokens = toybox_tokenizer()(["a striped blue star"])
>>> model.encode_text(tokens).shape
torch.Size([1, 128])
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import SimpleTokenizer
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models.convnext import ConvNeXt

_CONFIG_FOLDER = Path(__file__).with_name("model_configs")
# Byte-pair merges of our own, so that the text tower's vocabulary is small: written by tools/train_toy_clip.py.
MERGES_FILE = _CONFIG_FOLDER / "toybox_bpe.txt.gz"
_TIMM_NAME = "toybox_convnext"


# timm's registry reads this name from the module of a registered model.
default_cfgs = generate_default_cfgs(
    {_TIMM_NAME: {"input_size": (3, 256, 256), "pool_size": (8, 8), "classifier": "head.fc", "first_conv": "stem.0"}}
)


def toybox_convnext(pretrained: bool = False, **kwargs: Any) -> ConvNeXt:
    """A ConvNeXt of four stages (strides 4, 8, 16, 32); meant for pictures of twice toybox's size."""
    # Without layer scale: its tiny start holds the blocks back for longer than the whole training lasts.
    kwargs = {"depths": (1, 1, 3, 1), "dims": (32, 64, 128, 256), "ls_init_value": None, **kwargs}
    return build_model_with_cfg(
        ConvNeXt,
        _TIMM_NAME,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **kwargs,
    )


def register_toybox_models() -> None:
    """Register "toybox-vit" and "toybox-convnext" with open_clip; repeated calls do nothing."""
    if not is_model(_TIMM_NAME):
        register_model(toybox_convnext)
    if not {"toybox-vit", "toybox-convnext"} <= set(open_clip.list_models()):
        open_clip.add_model_config(_CONFIG_FOLDER)


@lru_cache(maxsize=1)
def toybox_tokenizer() -> SimpleTokenizer:
    """The tokenizer of both toybox CLIPs: one token per toybox word, byte pieces for everything else."""
    return SimpleTokenizer(bpe_path=str(MERGES_FILE))

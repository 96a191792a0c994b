"""What a config leaves to the machine: the device and the folder of the datasets."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode as CN

from twostage.errors import UserError


def resolve_device(cfg: CN) -> str:
    """`MODEL.DEVICE` with "auto" replaced by what this machine has."""
    import torch

    if cfg.MODEL.DEVICE == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but torch sees no GPU; use 'cpu' or 'auto'")
    return str(cfg.MODEL.DEVICE)


def datasets_root() -> Path:
    """Folder that holds all datasets: `$DETECTRON2_DATASETS`, default `datasets`."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()

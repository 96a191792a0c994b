"""What depends on the machine: the device, the user's home, the folder of the datasets, cores, memory used."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from twostage.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode as CN


def resolve_device(cfg: CN) -> str:
    """`MODEL.DEVICE` with "auto" replaced by what this machine has."""
    import torch

    if cfg.MODEL.DEVICE == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r} but torch sees no GPU; use 'cpu' or 'auto'")
    return str(cfg.MODEL.DEVICE)


def expand_home(text: str) -> str:
    """`text` with a leading `~` replaced by the user's home.

    Raises:
        UserError: there is a `~`, and this user has no home folder.
    """
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"'{text}' can't be found, because this user has no home folder; write the whole path"
        ) from error


def user_path(text: str | Path) -> Path:
    """The path that a user gave, `~` expanded. Raises UserError as `expand_home`."""
    return Path(expand_home(str(text)))


def home_folder() -> Path:
    """Folder of what twostage downloads: `$TWOSTAGE_HOME`, default `twostage` in the user's cache folder (`$XDG_CACHE_HOME`,
    `~/.cache`). Raises UserError as `expand_home`."""
    own = os.environ.get("TWOSTAGE_HOME")
    return user_path(own) if own else user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "twostage"


def datasets_root() -> Path:
    """Folder that holds all datasets: `$DETECTRON2_DATASETS`, default `datasets`."""
    return user_path(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident_memory() -> int:
    """Most resident memory that this process has held so far, in bytes; 0 on Windows, which does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)

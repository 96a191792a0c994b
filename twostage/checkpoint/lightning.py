"""Tensors of a PyTorch Lightning checkpoint (Stable Diffusion's published files), read without running anything in it.

Beside the state dict such a file holds the trainer's own objects: callbacks, hyperparameters. They are read as empty objects
that nothing is called on, whatever their names are supposed to mean, and thrown away.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from twostage.checkpoint.tensor_reader import is_archive, read_archive
from twostage.errors import UserError

_MARK = b"pytorch-lightning_version"
# Packages whose objects Lightning's files are known to hold.
_PACKAGES = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy")
_STATE = "state_dict"


class _Inert:
    """Stands for an object of one of `_PACKAGES`: takes whatever the pickle gives it and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As for a list."""

    def extend(self, values: Any) -> None:
        """As for a list."""


def is_lightning(path: Path) -> bool:
    """Whether the file is a zip archive that Lightning's trainer has written."""
    if not is_archive(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(_MARK in archive.read(name) for name in pickles)
    # A damaged archive is said to be damaged by whoever reads it next.
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error):
        return False


def load_lightning_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict.

    Raises:
        UserError: the archive is damaged, holds no state dict, or names of other packages, which could run code.
    """
    content = read_archive(path, _stand_in)
    state = content.get(_STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"checkpoint '{path}' was written by PyTorch Lightning but holds no {_STATE!r}; get it again")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _stand_in(module_name: str, _global_name: str) -> Any:
    return _Inert if module_name.partition(".")[0] in _PACKAGES else None

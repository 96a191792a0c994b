"""Tensors of checkpoints that hold the trainer's own objects besides, read without running anything in them.

PyTorch Lightning's (Stable Diffusion's published files) hold callbacks and hyperparameters, others the settings of the run as
OmegaConf keeps them (what GroupViT's training code writes). They are read as empty objects that nothing is called on,
whatever their names are supposed to mean, and thrown away.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from torch import Tensor

from twostage.checkpoint.tensor_reader import is_archive, read_archive
from twostage.errors import UserError

_MARKS = (b"pytorch-lightning_version", b"omegaconf.dictconfig")
# Packages whose objects such files are known to hold.
_PACKAGES = ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy")
# OmegaConf notes the types of its values; pickles call the module of built-in ones by its name in Python 2.
_TYPES = ("list", "dict", "tuple", "set", "str", "int", "long", "float", "bool")
_NAMES = {
    ("typing", "Any"),
    ("collections", "defaultdict"),
    *((module, name) for module in ("builtins", "__builtin__") for name in _TYPES),
}
_STATES = ("state_dict", "model")


class _Inert:
    """Stands for an object of one of `_PACKAGES` or `_NAMES`: takes whatever the pickle gives it and keeps nothing."""

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


def is_trainer_file(path: Path) -> bool:
    """Whether the file is a zip archive with such objects in it."""
    if not is_archive(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(mark in content for content in pickles for mark in _MARKS)
    # A damaged archive is said to be damaged by whoever reads it next.
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error):
        return False


def load_trainer_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict.

    Raises:
        UserError: the archive is damaged, holds no state dict, or names of other packages, which could run code.
    """
    content = read_archive(path, _stand_in)
    found = [content.get(key) for key in _STATES] if isinstance(content, dict) else []
    state = next((value for value in found if isinstance(value, dict)), None)
    if state is None:
        raise UserError(f"checkpoint '{path}' holds none of {', '.join(map(repr, _STATES))}; get it again")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _stand_in(module_name: str, global_name: str) -> Any:
    known = module_name.partition(".")[0] in _PACKAGES or (module_name, global_name) in _NAMES
    return _Inert if known else None

"""Tensors of a TorchScript archive (OpenAI's published CLIP files), read without running anything in it.

Such a file is a zip archive: code, and `data.pkl`, a pickle of the module tree whose tensors lie in files of their own.
Only the pickle is read, and only with the few names below: modules become empty shells that take attributes, tensors are
views of the stored bytes. Any other name is refused, so the archive's own code and any pickled call stay untouched.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from twostage.checkpoint.tensor_reader import is_archive, read_archive
from twostage.errors import DamagedFileError, UserError

_LISTS = tuple(f"build_{kind}list" for kind in ("int", "double", "bool", "tensor"))


class _Shell:
    """Stands for any scripted class; takes the attributes that the pickle gives it."""


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with a scripted module. Raises UserError where the archive is damaged."""
    if not is_archive(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    # A damaged list of parts: UnicodeDecodeError, NotImplementedError, struct.error and others besides BadZipFile.
    except Exception as error:
        raise DamagedFileError(f"checkpoint '{path}' is truncated or damaged; copy or download it again") from error


def load_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the module tree, by dotted name.

    Raises:
        UserError: the archive is damaged or its pickle holds a name that a module tree does not need.
    """
    root = read_archive(path, _stand_in)
    if not isinstance(root, _Shell):
        raise UserError(f"checkpoint '{path}' is no module of TorchScript but a {type(root).__name__}; get it again")
    return dict(_tensors(root, ""))


def _tensors(module: Any, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Shell):
            found += _tensors(value, f"{prefix}{name}.")
    return found


def _stand_in(module_name: str, global_name: str) -> Any:
    if module_name.startswith("__torch__"):
        return _Shell
    if module_name != "torch.jit._pickle":
        return None
    if global_name == "restore_type_tag":
        return lambda value, _tag: value
    return list if global_name in _LISTS else None

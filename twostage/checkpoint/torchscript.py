"""Tensors of a TorchScript archive (OpenAI's published CLIP files), read without running anything in it.

Such a file is a zip archive: code, and `data.pkl`, a pickle of the module tree whose tensors lie in files of their own.
Only the pickle is read, and only with the few names below: modules become empty shells that take attributes, tensors are
views of the stored bytes. Any other name is refused, so the archive's own code and any pickled call stay untouched.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twostage.errors import UserError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Shell:
    """Stands for any scripted class; takes the attributes that the pickle gives it."""


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with a scripted module. Raises UserError where the archive is damaged."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    # A damaged list of parts: UnicodeDecodeError, NotImplementedError, struct.error and others besides BadZipFile.
    except Exception as error:
        raise UserError(f"checkpoint '{path}' is truncated or damaged; copy or download it again") from error


def load_torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the module tree, by dotted name.

    Raises:
        UserError: the archive is damaged or its pickle holds a name that a module tree does not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(data) as file:
                root = _Reader(file, archive, data.removesuffix("data.pkl"), path).load()
    except UserError:
        raise
    # A damaged pickle calls its few names with anything: TypeError, IndexError, AttributeError, OverflowError and others.
    except Exception as error:
        raise UserError(f"checkpoint '{path}' is truncated or damaged; copy or download it again") from error
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


class _Reader(pickle.Unpickler):
    """An unpickler that knows shells, tensors and plain containers, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str, path: Path) -> None:
        super().__init__(file)
        self._archive = archive
        self._folder = folder
        self._path = path

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The stand-in for a pickled name."""
        if module_name.startswith("__torch__"):
            return _Shell
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _tag: value,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
        }
        found = allowed.get((module_name, global_name))
        if found is None:
            raise UserError(
                f"checkpoint '{self._path}' holds {module_name}.{global_name} besides tensors and was not loaded, because "
                "it could run code; save its state dict alone, best as .safetensors"
            )
        return found

    def persistent_load(self, pid: Any, /) -> Tensor:
        """The flat storage that a tensor is a view of."""
        _, dtype, key, _, count = pid
        content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
        storage = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        if len(storage) < count:
            raise ValueError(f"storage {key} is too short")
        return storage


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    # A copy, so that tensors that share a storage do not share changes.
    return storage.as_strided(size, stride, offset).clone()

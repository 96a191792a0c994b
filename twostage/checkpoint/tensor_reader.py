"""Reads the pickle inside a torch archive without running anything: tensors and plain containers, and stand-ins for what an
archive's kind is known to hold besides. Any other name is refused."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from twostage.errors import DamagedFileError, UserError

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
# From a pickled name (module, name) to what stands for it, None where the name is refused.
StandIn = Callable[[str, str], Any]


def is_archive(path: Path) -> bool:
    """Whether the file is a zip archive, a damaged one among them."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has an end that says what no archive says
        return True


def read_archive(path: Path, stand_in: StandIn) -> Any:
    """What the pickle of the zip archive `path` holds.

    Raises:
        UserError: the archive is damaged or its pickle holds a name that is refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(data) as file:
                return _Reader(file, archive, data.removesuffix("data.pkl"), path, stand_in).load()
    except UserError:
        raise
    # A damaged pickle calls its few names with anything: TypeError, IndexError, AttributeError, OverflowError and others.
    except Exception as error:
        raise DamagedFileError(f"checkpoint '{path}' is truncated or damaged; copy or download it again") from error


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors, plain containers and the stand-ins, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str, path: Path, stand_in: StandIn) -> None:
        super().__init__(file)
        self._archive = archive
        self._folder = folder
        self._path = path
        self._stand_in = stand_in

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The stand-in for a pickled name."""
        if module_name == "torch" and global_name in _DTYPES:
            return _DTYPES[global_name]
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
        }
        found = allowed.get((module_name, global_name)) or self._stand_in(module_name, global_name)
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

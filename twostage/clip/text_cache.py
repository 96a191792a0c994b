"""Text embeddings on disk, for one text tower and one set of prompts: a file per vocabulary, its names in the header.

A name is found in any file of the folder, so that another vocabulary with the same words reads them. Words that are asked one
by one make small files; when there are many, they become one. Nothing of the folder is held in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twostage.files import atomic_path

# More small files than this become one.
_SMALL_FILES = 32
# In bytes.
_SMALL = 4 * 2**20


class TextCache:
    """The files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings of those of `names` that are here. Damaged files are passed over: their words are computed again."""
        wanted, found = set(names), dict[str, Tensor]()
        for path in self._files():
            if not wanted:
                break
            rows = _read(path, wanted)
            found |= rows
            wanted -= rows.keys()
        return found

    def write(self, names: Sequence[str], rows: Tensor) -> Path:
        """Keep embeddings `[N, ...]`; the file. Raises UserError or SafetensorError where that is not possible."""
        path = self._write(names, rows)
        small = [file for file in self._files() if _size(file) < _SMALL]
        return self.join(small) if len(small) > _SMALL_FILES and path in small else path

    def _write(self, names: Sequence[str], rows: Tensor) -> Path:
        path = self._folder / f"{hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()[:32]}.safetensors"
        about = json.dumps({"sha256": _digest(names, rows), "names": list(names)}, ensure_ascii=False)
        with atomic_path(path) as temporary:
            # One entry, because safetensors writes several in any order, and the same words shall give the same file.
            save_file({"embeddings": rows.contiguous()}, temporary, metadata={"about": about})
        return path

    def join(self, paths: Sequence[Path]) -> Path:
        """One file in place of several; that one. Raises as `write`."""
        together: dict[str, Tensor] = {}
        for path in paths:
            together |= _read(path, None)
        joined = self._write(list(together), torch.stack(list(together.values())))
        for path in paths:
            if path != joined:
                # Another process may have done the same.
                with suppress(OSError):
                    path.unlink()
        return joined

    def _files(self) -> list[Path]:
        """In a fixed order."""
        return sorted(self._folder.glob("*.safetensors"))


def _read(path: Path, wanted: set[str] | None) -> dict[str, Tensor]:
    """Embeddings of `wanted` names (None: of all) in a file; none where it is gone or damaged."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            names = about["names"]
            places = [place for place, name in enumerate(names) if wanted is None or name in wanted]
            if not places:
                return {}
            rows = file.get_tensor("embeddings")
        # The format itself has no check sum.
        if len(rows) != len(names) or _digest(names, rows) != about["sha256"]:
            return {}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return {}
    # Copies, so that a few words don't hold a file's worth of memory.
    return {names[place]: rows[place].clone() for place in places}


def _digest(names: Sequence[str], rows: Tensor) -> str:
    digest = hashlib.sha256(repr((list(names), tuple(rows.shape), rows.dtype)).encode())
    digest.update(rows.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

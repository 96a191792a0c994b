"""Reading tensors from checkpoint files without ever executing pickled code."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from twostage.checkpoint.tensor_reader import is_archive
from twostage.checkpoint.torchscript import is_torchscript, load_torchscript_tensors
from twostage.checkpoint.trainer_files import is_trainer_file, load_trainer_tensors
from twostage.errors import DamagedFileError, UserError

# Keys under which training frameworks keep the model's tensors inside a checkpoint.
# The last is FOUND's.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "decoder")
# MS-DOS attribute of a part of a zip archive.
_FOLDER = 0x10
# Bytes read at a time.
_CHUNK = 1 << 20


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """The whole content of a checkpoint: safetensors, a torch file that holds only tensors and plain containers, or the
    tensors of a TorchScript archive or of a checkpoint that holds a trainer's own objects besides. Tensors of the first two
    are views of the file, to be copied by whoever keeps them.

    Raises:
        UserError: missing, empty, truncated, or pickled with objects other than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint '{path}' does not exist; check MODEL.WEIGHTS")
    if path.stat().st_size == 0:
        raise DamagedFileError(f"checkpoint '{path}' is empty; copy or download it again")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"checkpoint '{path}' is truncated or not a safetensors file; get it again") from error
    return _load_torch(path)


def _load_torch(path: Path) -> dict[str, Any]:
    if path.suffix == ".pkl":
        raise UserError(
            f"checkpoint '{path}' is a pickle, which could run code when read; convert it to .safetensors where you trust it"
        )
    if is_torchscript(path):
        return dict(load_torchscript_tensors(path))
    if is_trainer_file(path):
        return {"state_dict": load_trainer_tensors(path)}
    try:
        # Mapped: what is copied into a model is not held a second time. The format before 1.6 can't be.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
    except pickle.UnpicklingError as error:
        if is_archive(path) or "weights_only" in str(error).lower() or "global" in str(error).lower():
            raise UserError(
                f"checkpoint '{path}' holds pickled objects besides tensors and was not loaded, because they could run "
                "code; save its state dict alone, best as .safetensors"
            ) from error
        raise UserError(f"checkpoint '{path}' is not a checkpoint file (or is damaged); get it again") from error
    # A damaged pickle makes torch fail in any way: RuntimeError, EOFError, TypeError, AttributeError and others.
    except Exception as error:
        raise DamagedFileError(f"checkpoint '{path}' is truncated or damaged; copy or download it again") from error
    _check_sums(path)
    if not isinstance(content, dict):
        raise UserError(f"checkpoint '{path}' holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _check_sums(path: Path) -> None:
    """UserError where a part of the archive is not what was written; torch reads it without looking at the check sums."""
    if not is_archive(path):
        return  # torch's format before 1.6, which has none
    with zipfile.ZipFile(path) as archive:  # the list of its parts was read before, see `is_torchscript`
        damaged = [info.filename for info in archive.infolist() if not _is_whole(archive, info)]
        # All of them: a file that was written without check sums (torch.serialization.set_crc32_options).
        if damaged and len(damaged) < len(archive.infolist()):
            raise UserError(f"checkpoint '{path}' is damaged ('{damaged[0]}' in it); copy or download it again")


def _is_whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    if info.external_attr & _FOLDER:
        return False  # torch would take it for a folder, and leave its tensor's memory as it found it
    try:
        with archive.open(info) as part:
            while part.read(_CHUNK):
                pass
    # The last one: names in the archive that are no text any more.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def model_tensors(content: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """The model's state dict inside a checkpoint's content, unwrapped from "model", "state_dict", ... and "module.".

    Raises:
        UserError: there is no tensor in it, or one without a name or numbers.
    """
    state: Any = content
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise UserError(f"checkpoint '{path}' holds no model weights (keys: {', '.join(map(str, list(content)[:5]))})")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise UserError(
                f"checkpoint '{path}' has a tensor called {name!r}; it is no state dict, whose names are text"
            )
        if tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(
                f"checkpoint '{path}' has {name!r} without its numbers, or sparse; save it as a plain tensor"
            )
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return tensors


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The model's tensors in the checkpoint `path`; see `load_checkpoint_file` for what is raised."""
    return model_tensors(load_checkpoint_file(path), path)


def check_same_tensors(
    expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], *, weights: str, key: str, name: str
) -> None:
    """UserError unless both have the same tensors by name and shape.

    Args:
        weights: what the file is called in the message.
        key, name: config key that says which network it is, and its value.
    """
    wrong = [k for k, v in expected.items() if k not in found or found[k].shape != v.shape]
    extra = [k for k in found if k not in expected]
    if wrong or extra:
        raise UserError(
            f"{weights} are not those of {key} {name!r}: {len(wrong)} tensors missing or of another shape, "
            f"{len(extra)} unknown (first: {(wrong + extra)[0]!r}); give the matching name"
        )

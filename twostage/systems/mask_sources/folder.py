"""Masks that lie in a folder, one label map per picture: made once, by whatever program."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twostage.data.labels import read_label_map
from twostage.errors import UserError

# CorrCLIP's published masks are stored so.
_NPZ_KEY = "instance_mask"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderMasks:
    """Label maps `<name of the picture>.png` or `.npz` in `folder`; 0 is no mask. A `MaskSource`."""

    folder: Path

    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        if file_name is None:
            raise UserError(
                "MODEL.MASKS.SOURCE is 'folder', which finds masks by the picture's file name, but this picture has none; "
                "use another source, e.g. 'superpixels'"
            )
        labels = self._read(Path(file_name).stem, file_name)
        if labels.shape != tuple(picture.shape[1:]):
            raise UserError(
                f"the masks of '{file_name}' in '{self.folder}' are {labels.shape[0]}x{labels.shape[1]} (height x width), the "
                f"picture is {picture.shape[1]}x{picture.shape[2]}; they must agree"
            )
        return torch.from_numpy(labels.astype(np.int64))

    def _read(self, stem: str, file_name: str) -> np.ndarray:
        if (path := self.folder / f"{stem}.png").is_file():
            # Numbers of masks are no classes: 8 bits are enough where they do.
            return read_label_map(path, largest=0)
        if (path := self.folder / f"{stem}.npz").is_file():
            return _read_npz(path)
        raise UserError(
            f"MODEL.MASKS.FOLDER '{self.folder}' has no masks of '{file_name}' ({stem}.png or {stem}.npz); make them, or use "
            "another MODEL.MASKS.SOURCE"
        )


def existing_folder(text: str) -> Path:
    """`MODEL.MASKS.FOLDER`. Raises UserError where there is none."""
    if not (folder := Path(text)).is_dir():
        raise UserError(
            f"MODEL.MASKS.FOLDER is {text!r}, which is no folder; give the folder that holds the label maps"
        )
    return folder


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            labels = np.asarray(content[_NPZ_KEY])
    # Without the container that it expects, numpy hands over an array, which is no context.
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"mask file '{path}' can't be read ({error}); it must hold {_NPZ_KEY!r}") from error
    numbers = labels.ndim == 2 and labels.dtype.kind in "biuf"
    if not numbers or not (labels >= 0).all() or (labels != np.floor(labels)).any():
        raise UserError(
            f"mask file '{path}' holds {labels.dtype} of shape {labels.shape}; {_NPZ_KEY!r} must be a label map [H, W] of "
            "whole numbers, 0 in no mask and masks from 1 on"
        )
    return labels

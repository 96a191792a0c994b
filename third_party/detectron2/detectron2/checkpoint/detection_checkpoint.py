"""fvcore's checkpointer with this package's rules: rank 0 saves, nothing is unpickled, names can be matched."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from detectron2.checkpoint.matching import match_by_suffix
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = ["DetectionCheckpointer"]

logger = logging.getLogger(__name__)

_HEURISTICS = "matching_heuristics"


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and other objects with a `state_dict`.

    Files are `.pth` (a dict with "model", or a bare state dict), read with torch's `weights_only` loader, which runs no
    code from the file. A name ending in `?matching_heuristics=True` asks for parameters to be matched by the ends of their
    names.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, save_to_disk: bool | None = None, **checkpointables: Any
    ) -> None:
        """
        Args:
            save_to_disk: default: on rank 0 only.
        """
        on_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        super().__init__(model, save_dir, save_to_disk=on_disk, **checkpointables)
        self.path_manager = PathManager
        self._match_names = False

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a file into the model and the checkpointables (default: all); returns what nobody took.

        Raises:
            AssertionError: no such file.
            ValueError: a pickle file, or a URL query other than the one described above.
        """
        if not path:
            return super().load(path, checkpointables)
        logger.info("[DetectionCheckpointer] Loading from %s ...", path)
        path, self._match_names = _split_query(path)
        if path.endswith((".pkl", ".pyth")):
            raise ValueError(
                f"checkpoint {path} is a pickle file, which can run code when it is loaded; "
                "convert it, where you trust it, to a .pth file with a dict of tensors"
            )
        return super().load(path, checkpointables)

    def _load_file(self, f: str) -> dict[str, Any]:
        content = torch.load(f, map_location="cpu", weights_only=True)
        return content if "model" in content else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self._match_names:
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = match_by_suffix(self.model.state_dict(), checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        # The config decides about normalisation, so that many checkpoints do not hold it.
        own_buffers = {name for name, _ in self.model.named_buffers(recurse=False)}
        for name in {"pixel_mean", "pixel_std"} & own_buffers & set(incompatible.missing_keys):
            incompatible.missing_keys.remove(name)
        return incompatible


def _split_query(path: str) -> tuple[str, bool]:
    """A path without its query, and whether that asks for matching names."""
    parts = urlparse(path)
    query = parse_qs(parts.query)
    match = query.pop(_HEURISTICS, ["False"]) == ["True"]
    if query:
        raise ValueError(f"unknown query in checkpoint path {path}; known: ?{_HEURISTICS}=True")
    return parts._replace(query="").geturl() if parts.query else path, match

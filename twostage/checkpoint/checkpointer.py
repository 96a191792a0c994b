"""Saving and loading checkpoints: atomically written, never unpickled, official files recognised by content."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twostage.checkpoint.renaming import CheckpointTable, check_complete
from twostage.checkpoint.safe_loading import load_checkpoint_file, model_tensors
from twostage.errors import UserError
from twostage.files import atomic_path, write_text
from twostage.systems.cards import recognise_checkpoint

logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, content: dict[str, Any], source: str) -> None:
    """Fill `model` from a checkpoint's `content`: ours, or an official one of the same system.

    Every tensor is accounted for: used, or listed in the system's table as knowingly dropped or fresh.

    Raises:
        UserError: a checkpoint of another system, or one that does not fit the model exactly.
    """
    tensors = model_tensors(content, source)
    expected = model.state_dict()
    table: CheckpointTable | None = getattr(model, "checkpoint_table", lambda: None)()
    name = type(model).__name__
    if table is not None and table.recognises(tensors):
        renamed = table.to_ours(tensors, source=source)
        check_complete(renamed, expected, fresh=table.fresh, source=source, model=name)
        logger.info(
            "'%s' is an official %s checkpoint: %d tensors, all accounted for", source, table.system, len(tensors)
        )
        model.load_state_dict(renamed, strict=False)
        _say_licence(tensors, source)
        return
    recognised = recognise_checkpoint(tensors)
    if not set(tensors) & set(expected) and recognised is not None:
        card, _ = recognised
        raise UserError(
            f"checkpoint '{source}' is one of {card.name}, but the config builds {name}; use a config of {card.name}: "
            f"{', '.join(card.configs[:4])}"
        )
    check_complete(tensors, expected, fresh=(), source=source, model=name)
    model.load_state_dict(tensors)


def _say_licence(names: Iterable[str], source: str) -> None:
    """Say under which licence an official checkpoint with these tensor names was published, where the system's card knows."""
    recognised = recognise_checkpoint(names)
    if recognised is not None and recognised[0].weights_licence:
        logger.warning("The weights '%s' were published under %s", source, recognised[0].weights_licence)


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with strict, safe loading and atomic saving."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` (rank 0) with the model and all checkpointables, and note it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        with atomic_path(path) as temporary:
            try:
                torch.save(data, temporary)
            except RuntimeError as error:  # how torch says that the disk is full
                raise OSError(0, f"{str(error).splitlines()[0]} (is the disk full?)") from error
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the newest checkpoint's name in `<save_dir>/last_checkpoint`."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load `path` into the model and the checkpointables; returns what nobody took (e.g. `iteration`).

        Raises:
            UserError: see `load_checkpoint_file` and `load_weights`.
        """
        if not path:
            logger.info("No checkpoint given, the model starts from its initial weights")
            return {}
        logger.info("Loading checkpoint %s", path)
        content = load_checkpoint_file(path)
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        load_weights(model, content, str(path))
        rest = {key: value for key, value in content.items() if key != "model" and not isinstance(value, Tensor)}
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in rest:
                self.checkpointables[key].load_state_dict(rest.pop(key))
        return rest

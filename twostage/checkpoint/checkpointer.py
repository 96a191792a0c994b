"""Saving and loading checkpoints: atomically written, never unpickled, official files recognised by content."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from twostage.checkpoint.renaming import CheckpointTable, check_complete
from twostage.checkpoint.safe_loading import load_checkpoint_file, model_tensors
from twostage.errors import UserError, shown
from twostage.files import atomic_path, write_text
from twostage.systems.cards import cards_of, recognise_checkpoint
from twostage.weights.find import weights_file

logger = logging.getLogger(__name__)


# Under which our checkpoints say what wrote them: the name in META_ARCH_REGISTRY, which is the model's class.
_WRITTEN_BY = "meta_architecture"


def load_weights(model: nn.Module, content: dict[str, Any], source: str) -> None:
    """Fill `model` from a checkpoint's `content`: ours, or an official one of the same system.

    Every tensor is accounted for: used, or listed in the system's table as knowingly dropped or fresh.

    Raises:
        UserError: a checkpoint of another system, or one that does not fit the model exactly.
    """
    name = type(model).__name__
    _check_written_by(content.get(_WRITTEN_BY, name), name, source)
    tensors = model_tensors(content, source)
    expected = model.state_dict()
    tables: Sequence[CheckpointTable] = getattr(model, "checkpoint_tables", tuple)()
    table = next((table for table in tables if table.recognises(tensors)), None)
    if table is not None:
        renamed = table.to_ours(tensors, source=source)
        check_complete(renamed, expected, fresh=table.fresh, source=source, model=name)
        renamed |= {n: t for n, t in table.supplied(source=source).items() if n in expected and n not in renamed}
        logger.info(
            "'%s' is an official %s checkpoint: %d tensors, all accounted for", source, table.system, len(tensors)
        )
        model.load_state_dict(renamed, strict=False)
        _say_licence(tensors, source)
        return
    if set(tensors) != set(expected):
        _check_not_official(tensors, name, source)
    check_complete(tensors, expected, fresh=(), source=source, model=name)
    model.load_state_dict(tensors)


def _say_licence(names: Iterable[str], source: str) -> None:
    """Say under which licence an official checkpoint with these tensor names was published, where the system's card knows."""
    recognised = recognise_checkpoint(names)
    if recognised is not None and recognised[0].weights_licence:
        logger.warning("The weights '%s' were published under %s", source, recognised[0].weights_licence)


def _check_written_by(written: object, name: str, source: str) -> None:
    """UserError where a checkpoint of ours says that another system wrote it."""
    if written == name:
        return
    cards = cards_of(str(written))
    configs = [config for card in cards for config in card.configs]
    advice = (
        f"use the config it was trained with, such as {', '.join(configs[:4])}" if configs else "install that system"
    )
    raise UserError(
        f"checkpoint '{source}' was written by {' or '.join(card.name for card in cards) or written} "
        f"(MODEL.META_ARCHITECTURE {written}), but the config builds {name}; {advice}"
    )


def _check_not_official(tensors: Iterable[str], name: str, source: str) -> None:
    """UserError where the tensors' names are those of a system's official checkpoints."""
    recognised = recognise_checkpoint(tensors)
    if recognised is None:
        return
    card, variant = recognised
    label = f"{card.name} ({variant})" if variant else card.name
    configs = card.signatures[variant].configs or card.configs
    another = "another " if card.meta_architecture == name else ""
    raise UserError(
        f"checkpoint '{source}' is one of {label}, but the config builds {another}{name}; use a config of {card.name}: "
        f"{', '.join(configs[:4])}"
    )


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with strict, safe loading and atomic saving."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` (rank 0) with the model and all checkpointables, and note it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict(), _WRITTEN_BY: type(_unwrapped(self.model)).__name__}
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

    def remove_partial(self) -> None:
        """Delete what a run that was killed while it wrote a checkpoint has left in `save_dir` (rank 0)."""
        if not self.save_dir or not self.save_to_disk:
            return
        for file in Path(self.save_dir).glob(".model_*.pth.*.tmp"):
            logger.info("Removed '%s', a checkpoint that was never finished", file)
            file.unlink(missing_ok=True)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the newest checkpoint's name in `<save_dir>/last_checkpoint`."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def get_checkpoint_file(self) -> str:
        """The file that `<save_dir>/last_checkpoint` names.

        Raises:
            UserError: it names none, or one that is not there.
        """
        note = Path(self.save_dir) / "last_checkpoint"
        try:
            name = note.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            name = ""
        if name and "\0" not in name and (note.parent / name).is_file():
            return str(note.parent / name)
        what = f"names {shown(name)}, which is not there" if name else "names no file"
        raise UserError(f"'{note}' {what}{self.other_checkpoints(name)}")

    def other_checkpoints(self, name: str) -> str:
        """What to do where the checkpoint `name` in `save_dir` can't be gone on from, as the end of a sentence."""
        folder = Path(self.save_dir)
        files = sorted(p.name for p in folder.glob("model_" + 7 * "[0-9]" + ".pth") if p.name != Path(name).name)
        if not files:
            return f"; put the file back, or train without --resume, from the beginning (OUTPUT_DIR {folder})"
        return f"; to go on from another checkpoint, write its name, such as {files[-1]}, into '{folder / 'last_checkpoint'}'"

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load `path` into the model and the checkpointables; returns what nobody took (e.g. `iteration`).

        Args:
            path: what `weights_file` finds a file by.

        Raises:
            UserError: see `load_checkpoint_file` and `load_weights`.
        """
        if not path:
            logger.info("No checkpoint given, the model starts from its initial weights")
            return {}
        logger.info("Loading checkpoint %s", path)
        content = load_checkpoint_file(weights_file(str(path)))
        load_weights(_unwrapped(self.model), content, str(path))
        taken = ("model", _WRITTEN_BY)
        rest = {key: value for key, value in content.items() if key not in taken and not isinstance(value, Tensor)}
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in rest:
                # Optimisers keep the tensors that they get, and these are the file's pages.
                self.checkpointables[key].load_state_dict(copy.deepcopy(rest.pop(key)))
        return rest


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model

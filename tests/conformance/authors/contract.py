"""What the comparison has to know of the authors' code of one system: where it lies, how it is built and given words."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from detectron2.config import CfgNode, get_cfg
from torch import nn

from twostage.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Which model of theirs is wanted.

    Attributes:
        code: folder of the clone.
        ours: our model of the same settings.
        cfg: our config.
        training_classes: length of the vocabulary of a training step; None for evaluation.
    """

    code: Path
    ours: Any
    cfg: CfgNode
    training_classes: int | None

    def variant(self, files: Mapping[str, str]) -> str:
        """The config file of theirs for our CLIP. Raises UserError where there is none."""
        name = self.cfg.MODEL.CLIP.NAME
        if name not in files:
            raise UserError(f"the comparison knows no config of theirs for CLIP {name!r}; known: {', '.join(files)}")
        return files[name]

    def config(self, file: str, *add_keys: Callable[[CfgNode], None]) -> CfgNode:
        """Their config `file` after their keys were added, for the CPU."""
        cfg = get_cfg()
        for add in add_keys:
            add(cfg)
        # Theirs compute sizes in their yaml files; who runs their code runs these, too.
        cfg.merge_from_file(str(self.code / file), allow_unsafe=True)
        cfg.MODEL.DEVICE = "cpu"
        return cfg


class Authors(abc.ABC):
    """The authors' code of one system.

    Attributes:
        repository: on GitHub.
        package: folder of the clone that holds their code, and its name when it is imported.
        requires: module -> what `pip install` has to be given for it.
        folders: of the clone, from which modules are imported before those of the environment.
        empty: module that can't be had on a CPU -> why an empty one in its place changes nothing.
    """

    repository: ClassVar[str]
    package: ClassVar[str]
    requires: ClassVar[Mapping[str, str]] = {}
    folders: ClassVar[Sequence[str]] = ()
    empty: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def build(self, request: Request) -> nn.Module:
        """Their model with random weights, on the CPU; called where their code can be imported."""

    def weights(self, model: Any) -> nn.Module:
        """The part of `model` that has the tensors of official checkpoints, under their names."""
        return model

    @abc.abstractmethod
    def set_words(self, model: Any, names: Sequence[str], text: Any) -> None:
        """Let `model` segment `names`.

        Args:
            text: what our `embed_vocabulary` gives for them; None where a training step embeds them anew on both sides.
        """

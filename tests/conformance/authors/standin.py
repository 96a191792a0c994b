"""A system whose authors' code the tests write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from conformance.authors.contract import Authors, Request


class StandIn(Authors):
    """A clone whose package registers its model under the name of ours."""

    repository = "somebody/standin"
    package = "standin"
    folders = ("more",)
    empty = {"standin_cuda": "stands for a compiled operator"}

    def build(self, request: Request) -> nn.Module:
        raise NotImplementedError

    def set_words(self, model: Any, names: Sequence[str], text: Any) -> None:
        self.told = list(names)

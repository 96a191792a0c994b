"""Makes `import torchvision` work where its compiled operators are missing (a CUDA build beside CPU-only torch).

torchvision 0.28.0 from PyPI is built against CUDA. Beside a CPU-only torch its extension library does not load, so the
operators it would define do not exist, and the import stops at the first registration of a fake kernel ("operator
torchvision::nms does not exist"). Declaring the operators beforehand is enough: nothing in twostage runs them (timm and
open_clip use only torchvision's transforms), and calling one still fails, with torch's own message that it has no
kernel.

Inert where torchvision is healthy: the import is tried first, and nothing is declared when it succeeds. `install` costs
nothing until somebody imports torchvision.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# More than torchvision has; ends a retry loop that makes no progress.
_MOST_OPERATORS = 64

# Keeps the declarations alive for the life of the process; empty where torchvision is healthy.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> bool:
    """Make torchvision importable; True when operators had to be declared for it.

    The operators are taken from the import's own complaints, one by one, so that the shim does not depend on the list of
    operators of a torchvision version. Their schemas are irrelevant because nothing can call them.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision is broken in another way than missing operators.
    """
    if _declared or "torchvision" in sys.modules:
        return bool(_declared)
    for _ in range(_MOST_OPERATORS):
        try:
            importlib.import_module("torchvision")
            return bool(_declared)
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            _forget_partial_import()
            _declare(missing.group(1))
    raise RuntimeError("torchvision still misses operators after declaring them; reinstall torch and torchvision")


def install() -> None:
    """Have `ensure_torchvision` run at the first import of torchvision, whoever asks for it."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for `torchvision` once, with the module that `ensure_torchvision` has imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        if importlib.util.find_spec("torchvision") is None:
            return None
        ensure_torchvision()
        return importlib.machinery.ModuleSpec("torchvision", self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        self._module = sys.modules["torchvision"]
        self._spec = self._module.__spec__
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put ours there


def _declare(operator: str) -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}(Tensor input) -> Tensor")
    _declared.append(library)


def _forget_partial_import() -> None:
    """Drop the half-imported torchvision modules, so that the next import starts over."""
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]

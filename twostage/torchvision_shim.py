"""Makes `import torchvision` work where its compiled operators are missing (a CUDA build beside CPU-only torch).

torchvision 0.28.0 from PyPI is built against CUDA. Beside a CPU-only torch its extension library does not load, so the
operators it would define do not exist, and the import stops at the first registration of a fake kernel ("operator
torchvision::nms does not exist"). Declaring the operators beforehand is enough: nothing in twostage runs them (timm and
open_clip use only torchvision's transforms), and calling one still fails, with torch's own message that it has no
kernel.

Inert where torchvision is healthy: the import is tried first, and nothing is declared when it succeeds.
"""

from __future__ import annotations

import importlib
import re
import sys

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


def _declare(operator: str) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}(Tensor input) -> Tensor")
    _declared.append(library)


def _forget_partial_import() -> None:
    """Drop the half-imported torchvision modules, so that the next import starts over."""
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]

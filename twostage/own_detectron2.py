"""Our subset of Detectron2's API, used where upstream is not installed.

It travels with twostage: beside the package in a checkout, inside it when installed. Its folder goes to the end of the
import path, so that an installed Detectron2 comes first.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE.parent / "third_party" / "detectron2", _PACKAGE / "third_party" / "detectron2")


def install() -> None:
    """Make `import detectron2` find our subset where there is no other."""
    if importlib.util.find_spec("detectron2") is not None:
        return
    for folder in _FOLDERS:
        if (folder / "detectron2" / "__init__.py").is_file():
            sys.path.append(str(folder))
            return


def is_own() -> bool:
    """Whether `import detectron2` finds our subset."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None and "third_party" in Path(spec.origin).parts

"""Our subset of Detectron2's API, used where upstream is not installed.

It travels with twostage: beside the package in a checkout, inside it when installed. Its folder goes to the end of the
import path, so that an installed Detectron2 comes first. Spawned processes inherit the path or import twostage themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE.parent / "third_party" / "detectron2", _PACKAGE / "third_party" / "detectron2")


def install() -> None:
    """Make `import detectron2` find our subset where there is no other."""
    if _is_importable():
        return
    for folder in _FOLDERS:
        if (folder / "detectron2" / "__init__.py").is_file():
            sys.path.append(str(folder))
            return


def _is_importable() -> bool:
    if "detectron2" in sys.modules:
        return True
    spec = importlib.util.find_spec("detectron2")
    # A plain folder of that name, such as a clone of upstream's repository in the current folder, is no package.
    return spec is not None and spec.origin is not None


def is_own() -> bool:
    """Whether `import detectron2` gives our subset; its version says so."""
    import detectron2

    return detectron2.__version__.endswith("+twostage")

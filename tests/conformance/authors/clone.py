"""A clone of the authors' repository, opened so that their modules are imported beside ours in one process."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

from conformance.authors.contract import Authors
from twostage.errors import UserError
from twostage.own_detectron2 import is_own

# Both sides have them, theirs in older versions.
_PINNED = ("open_clip", "timm")
_REGISTRIES = (META_ARCH_REGISTRY, BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY)


@contextlib.contextmanager
def opened(authors: Authors, code: Path, packages: Path | None = None) -> Iterator[None]:
    """Within it the authors' modules are imported from `code`, and open_clip and timm from `packages` where they lie there.

    Their package's own `__init__` does not run: it registers datasets under names that are ours as well, and imports what
    their trainers need. Detectron2's registries hold their classes meanwhile, ours come back afterwards.

    Raises:
        UserError: no clone there, or something is not installed.
    """
    check_clone(authors, code)
    if is_own():
        raise UserError(
            "the authors' code needs upstream Detectron2; install it: pip install --no-build-isolation "
            "git+https://github.com/facebookresearch/detectron2"
        )
    folders = [code / folder for folder in authors.folders] + ([packages] if packages else [])
    with _own_modules(folders), _own_registries():
        check_installed(authors.requires)
        package = ModuleType(authors.package)
        package.__path__ = [str(code / authors.package)]
        sys.modules[authors.package] = package
        for name in authors.empty:
            if importlib.util.find_spec(name) is None:
                sys.modules[name] = ModuleType(name)
        yield


def check_clone(authors: Authors, code: Path | None) -> None:
    """UserError unless `code` is a clone of the authors' repository."""
    way_out = f"clone https://github.com/{authors.repository} and give its folder by --code"
    if code is None:
        raise UserError(f"the authors' code is missing; {way_out}")
    if not (code / authors.package).is_dir():
        raise UserError(f"'{code}' has no folder '{authors.package}'; {way_out}")


def check_installed(requires: Mapping[str, str]) -> None:
    """UserError with what to install unless every module of `requires` can be imported."""
    missing = [install for name, install in requires.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the authors' code needs more packages; install them: pip install {' '.join(missing)}")


@contextlib.contextmanager
def _own_modules(folders: Sequence[Path]) -> Iterator[None]:
    """Imports look into `folders` first; the pinned packages that lie there take the place of those already imported."""
    swapped = [name for name in _PINNED if any((folder / name).is_dir() for folder in folders)]
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in swapped}
    path = list(sys.path)
    sys.path[:0] = map(str, folders)
    for name in ours:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.partition(".")[0] in swapped]:
            del sys.modules[name]
        sys.modules.update(ours)


@contextlib.contextmanager
def _own_registries() -> Iterator[None]:
    """Registries without our classes, whose names are often theirs."""
    before: list[dict[str, Any]] = []
    for registry in _REGISTRIES:
        before.append(dict(registry._obj_map))
        for name, entry in before[-1].items():
            if entry.__module__.partition(".")[0] == "twostage":
                del registry._obj_map[name]
    try:
        yield
    finally:
        for registry, entries in zip(_REGISTRIES, before, strict=True):
            registry._obj_map.clear()
            registry._obj_map.update(entries)

"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Folder with modules -> the folder that their names count from.
FOLDERS = {TESTS.parent / "twostage": TESTS.parent, TESTS / "conformance": TESTS}


def modules_with_examples() -> list[str]:
    """Names of all modules whose text shows an example."""
    return sorted(
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for folder, root in FOLDERS.items()
        for path in folder.rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried and not failed

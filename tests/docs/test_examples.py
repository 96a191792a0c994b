"""The examples of docs/ run as they stand: Python and `twostage` on toybox; what needs published weights is at least parsed.

```python and ```bash blocks are run in one folder per page, Python in one namespace; a ```text block right behind one is what
it prints ("..." stands for anything). In ```console blocks commands are parsed, and their configs are there; ```py
is compiled.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from twostage.commands.main import COMMANDS, run
from twostage.data.toybox.dataset import plan_scenes, render

DOCS = Path(__file__).parents[2] / "docs"
# A complete package, which tests/systems/test_installed_system.py installs and runs.
ELSEWHERE = ("add_a_system.md",)
BLOCK = re.compile(r"^```(python|py|bash|console)\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.M | re.S)


class Example(NamedTuple):
    kind: str
    code: str
    printed: str


def examples(path: Path) -> list[Example]:
    return [Example(kind, code, printed) for kind, code, printed in BLOCK.findall(path.read_text(encoding="utf-8"))]


def commands(code: str) -> Iterator[list[str]]:
    """The words behind `twostage` of every such line."""
    for line in code.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program == "twostage":
            yield words


PAGES = [path for path in sorted(DOCS.glob("*.md")) if path.name not in ELSEWHERE]


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    Image.fromarray(scene.image).save("scene.png")
    names: dict[str, Any] = {}
    for example in examples(page):
        if example.kind == "console":
            for name, *words in commands(example.code):
                COMMANDS[name].build_parser(name).parse_args(words)
            continue
        if example.kind == "py":
            compile(example.code, page.name, "exec")
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if example.kind == "python":
                exec(compile(example.code, page.name, "exec"), names)
            else:
                for words in commands(example.code):
                    run(words)
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if example.printed:
            same = doctest.OutputChecker().check_output(example.printed, printed.getvalue(), options)
            assert same, printed.getvalue()


def test_blocks_are_found() -> None:
    kinds = {example.kind for page in PAGES for example in examples(page)}
    assert kinds == {"python", "py", "bash", "console"}

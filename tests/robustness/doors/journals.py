"""A stopped evaluation: whatever lies in its folder, `resume` gives the figures of an undisturbed one, or a clear error."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from PIL import Image
from torch import nn

from robustness.damage import damage
from robustness.trial import Door, Trial, require
from twostage.config.loading import default_config
from twostage.data.loaders import build_test_loader
from twostage.engine.evaluation import evaluate_dataset
from twostage.evaluation.building import build_evaluator

_NAME = "tiny"
_IMAGES = 5
# Of the files of a stopped (or finished) evaluation: what is done to them.
Spoil = Callable[[Path], None]


class _Stopped(BaseException):
    """As if the process had been killed."""


class _Brightness(nn.Module):
    """Predicts by the brightness of a pixel; stops before image number `dies_at`."""

    def __init__(self, dies_at: int = -1) -> None:
        super().__init__()
        self.dies_at = dies_at
        self.seen = 0

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if self.seen == self.dies_at:
            raise _Stopped
        self.seen += 1
        sizes = [(record["height"], record["width"]) for record in batch]
        maps = [nn.functional.interpolate(r["image"][None].float(), s)[0, 0] for r, s in zip(batch, sizes, strict=True)]
        return [{"sem_seg_labels": (values / 86).long()} for values in maps]


@functools.cache
def _dataset() -> Path:
    """A folder of a few pictures, for this process."""
    folder = Path(tempfile.mkdtemp(prefix="robustness-")) / _NAME
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(_IMAGES):
        Image.fromarray(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(rng.integers(0, 3, (10, 14), dtype=np.uint8)).save(folder / "labels" / f"{index}.png")
    (folder / "classes.txt").write_text("cat\ndog\ngrass\n")
    return folder


def _config(output: Path) -> CfgNode:
    cfg = default_config()
    cfg.OUTPUT_DIR, cfg.DATALOADER.NUM_WORKERS = str(output), 0
    cfg.DATASETS.FOLDERS = (f"{_NAME}={_dataset()}",)
    return cfg


def _evaluate(output: Path, *, resume: bool, dies_at: int = -1) -> dict[str, Any]:
    cfg = _config(output)
    return evaluate_dataset(
        cfg, _Brightness(dies_at), _NAME, build_evaluator(cfg, _NAME),
        build_loader=build_test_loader, weights="weights", resume=resume,
    )  # fmt: skip


@functools.cache
def _whole() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _evaluate(Path(folder), resume=False)


def _action(spoil: Spoil, *, finished: bool = False) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        expected = _whole()
        with contextlib.suppress(_Stopped):
            _evaluate(folder, resume=False, dies_at=-1 if finished else 3)
        inference = folder / "inference"
        name = f"results-{_NAME}.json" if finished else f"partial-{_NAME}/rank0-0.jsonl"
        spoil(inference / name)
        require(_evaluate(folder, resume=True) == expected, "other figures than an undisturbed evaluation")
        json.loads((inference / f"results-{_NAME}.json").read_text())

    return action


def _lines(change: Callable[[list[str]], list[str]]) -> Spoil:
    return lambda path: _write(path, "\n".join(change(path.read_text().split("\n"))))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _entry(line: int, change: Callable[[Any], Any]) -> Spoil:
    def on_lines(lines: list[str]) -> list[str]:
        check_sum, text = lines[line].split(" ", 1)
        text = json.dumps(change(json.loads(text)))
        # An older program sealed what it wrote; of entries it says by the first line that they are other ones.
        lines[line] = f"{zlib.crc32(text.encode()):08x} {text}" if line == 0 else f"{check_sum} {text}"
        return lines

    return _lines(on_lines)


def _without(key: str) -> Callable[[Any], Any]:
    return lambda entry: {k: v for k, v in entry.items() if k != key}


def _with(**values: Any) -> Callable[[Any], Any]:
    return lambda entry: {**entry, **values}


def _add_file(name: str, content: bytes) -> Spoil:
    return lambda path: (path.parent / name).write_bytes(content) and None


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _folder_as_file(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("x")


def _other_picture_counted(path: Path) -> None:
    """A picture that is not of this set any more."""
    _entry(1, _with(file_name="/nowhere/else.png"))(path)


_PARTIAL: dict[str, Spoil] = {
    "as it was": lambda path: None,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: _write(path, ""),
    "first line only": _lines(lambda lines: lines[:1] + [""]),
    "no line break at the end": _lines(lambda lines: lines[:-1]),
    "no first line": _lines(lambda lines: lines[1:]),
    "a line twice": _lines(lambda lines: [*lines[:2], lines[1], *lines[2:]]),
    "an empty line": _lines(lambda lines: [lines[0], "", *lines[1:]]),
    "a number as line": _lines(lambda lines: [lines[0], "3", *lines[1:]]),
    "a number as first line": _lines(lambda lines: ["3", *lines[1:]]),
    "a list as first line": _lines(lambda lines: ["[]", *lines[1:]]),
    "other weights": _entry(0, _with(weights_sha256="other")),
    "another version": _entry(0, _without("measures")),
    "another layout": _entry(0, _with(**{"layout of the journal": 1})),
    "no file name": _entry(1, _without("file_name")),
    "a list as file name": _entry(1, _with(file_name=["a"])),
    "no counts": _entry(1, _without("counts")),
    "counts of another measure": _entry(1, _with(counts={"other": {}})),
    "counts without arrays": _entry(1, _with(counts={"pairs": {}})),
    "counts of another kind": _entry(
        1, lambda e: {**e, "counts": json.loads(json.dumps(e["counts"]).replace('"i"', '"c"'))}
    ),
    "counts as text": _entry(1, _with(counts="x")),
    "no image": _entry(1, _without("image")),
    "image of another version": _entry(1, lambda e: {**e, "image": {**e["image"], "new": 1}}),
    "image of an older version": _entry(1, lambda e: {**e, "image": _without("seconds")(e["image"])}),
    "a picture of elsewhere": _other_picture_counted,
    "another number": _lines(lambda lines: [lines[0], lines[1].replace("1", "2"), *lines[2:]]),
    "cut off, and gone on": lambda path: _write(path, path.read_text()[:-40] + path.read_text()[-200:]),
    "a folder": _as_folder,
    "its folder is a file": _folder_as_file,
    "binary beside": _add_file("rank1-0.jsonl", bytes(range(256)) + b"\n"),
    "zeros beside": _add_file("rank1-0.jsonl", bytes(4096)),
    "empty beside": _add_file("rank7-3.jsonl", b""),
    "a note beside": _add_file("note.txt", b"hello"),
}
_FINISHED: dict[str, Spoil] = {
    "as it was": lambda path: None,
    "gone": lambda path: path.unlink(),
    "empty": lambda path: _write(path, ""),
    "a list": lambda path: _write(path, "[]"),
    "a number": lambda path: _write(path, "3"),
    "an object": lambda path: _write(path, "{}"),
    "without results": lambda path: _write(path, json.dumps(_without("results")(json.loads(path.read_text())))),
    "results as list": lambda path: _write(path, json.dumps(_with(results=[1])(json.loads(path.read_text())))),
    "a folder": _as_folder,
    "binary": lambda path: path.write_bytes(bytes(range(256))) and None,
    "deep": lambda path: _write(path, "[" * 100000),
}


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """The ones thought of, then damaged bytes."""
    _whole()
    fixed = [Trial(f"stopped: {name}", _action(spoil)) for name, spoil in _PARTIAL.items()]
    fixed += [Trial(f"finished: {name}", _action(spoil, finished=True)) for name, spoil in _FINISHED.items()]
    chosen = rng.permutation(len(fixed))[:count]
    yield from (fixed[i] for i in chosen)
    for index in range(max(0, count - len(fixed))):
        seed, finished = int(rng.integers(2**32)), index % 3 == 2
        yield Trial(
            f"{'finished' if finished else 'stopped'}: damaged bytes #{index}",
            _action(_damaging(seed), finished=finished),
        )


def _damaging(seed: int) -> Spoil:
    def spoil(path: Path) -> None:
        path.write_bytes(damage(np.random.default_rng(seed), path.read_bytes())[1])

    return spoil


DOOR = Door("journals", trials)

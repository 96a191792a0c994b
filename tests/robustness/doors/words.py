"""Words: files of names, class files of a folder, command-line values and Python values."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robustness.damage import damage
from robustness.trial import CANARY, Door, Trial, require
from twostage.data.catalogue.folders import read_folder_classes
from twostage.vocabulary import Vocabulary

_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1251")
_SUFFIXES = (".txt", ".TXT", ".names", ".csv", ".json", ".yaml", ".yml", "", ".dat", ".JSON")
_PLAIN = (
    "cat",
    "sofa, couch",
    "sofa,couch",
    "Haus",
    "träge Ente",
    "cafe\u0301",
    "трава",
    "犬",
    "  grass ",
    "a,",
    "x" * 300,
)
_ODD: tuple[Any, ...] = (
    None, 1, 0.5, float("nan"), True, "", " ", ",", ["sofa", "couch"], [], [[]], [["deep", ["er"]]], {"name": "cat"},
    {"name": None}, {"name": "cat", "synonyms": "x"}, {"name": "cat", "synonyms": 3}, {"name": "cat", "synonyms": ["kitten"]},
    {"name": "cat", "color": [1, 2, 300]}, {"name": "cat", "color": "red"}, {"name": "a", "id": "x"}, {"nme": "cat"},
    "\ufeff", "\u200b", "a\tb", "a\nb", "ca\u200bt", "a\x07b", "\ud800", 10**400,
)  # fmt: skip


def _check(names: Sequence[str]) -> None:
    """What holds for every vocabulary, whatever it was read from."""
    require(len(names) > 0, "no names")
    for name in names:
        require(isinstance(name, str) and bool(name.strip(" ,")), f"{name!r} is no name")
        require(name == name.strip() and not name.endswith(","), f"{name!r} has something around it")
        require(not any(letter in name for letter in "\ufeff\u200b\0\n\r"), f"{name!r} holds a mark that is no letter")
        require(unicodedata.is_normalized("NFC", name), f"{name!r} is not composed")
    require(len({name.casefold() for name in names}) == len(names), "a name stands twice")


def _expected(names: Sequence[str]) -> list[str]:
    """Plain names as they have to come out."""
    return [
        ", ".join(" ".join(unicodedata.normalize("NFC", p).split()) for p in n.split(",") if p.strip()) for n in names
    ]


def _text(content: Any, suffix: str) -> str:
    kind = suffix.lower()
    if kind == ".json":
        return json.dumps(content, ensure_ascii=False)
    if kind in (".yaml", ".yml"):
        return str(yaml.safe_dump(content, allow_unicode=True))
    entries = content if isinstance(content, list) else [content]
    if kind == ".csv":
        stream = io.StringIO()
        csv.writer(stream).writerows([[str(entry)] for entry in entries])
        return stream.getvalue()
    return "\n".join(str(entry) for entry in entries) + "\n"


def _file(name: str, content: bytes, expected: list[str] | None, *, folder_classes: bool) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content)
        names = read_folder_classes(folder).names if folder_classes else Vocabulary.from_file(path).names
        _check(names)
        require(expected is None or list(names) == expected, f"{list(names)} instead of {expected}")
        if not folder_classes:
            require(Vocabulary.parse(str(path)).names == names, "the command line reads other names")

    return action


def _entries(rng: np.random.Generator, *, odd: bool) -> list[Any]:
    names: list[Any] = [_PLAIN[i] for i in rng.permutation(len(_PLAIN))[: int(rng.integers(1, 6))]]
    if "sofa, couch" in names and "sofa,couch" in names:
        names.remove("sofa,couch")
    if odd:
        names.insert(int(rng.integers(len(names) + 1)), _ODD[int(rng.integers(len(_ODD)))])
        if rng.random() < 0.2:
            names.append(names[0])
    return names


def _wrapped(rng: np.random.Generator, entries: list[Any]) -> Any:
    """As some of the objects that are in use, or none that is."""
    return [
        entries, {"classes": entries}, {"names": entries}, {"names": dict(enumerate(entries))},
        {str(i): entry for i, entry in enumerate(entries)}, {"categories": [{"id": 1, "name": e} for e in entries]},
        {"names": {"names": entries}}, {"classes": {"a": 1}}, {"palette": entries}, {"\u00b2": "cat"}, {"1.5": "cat"},
        {"-1": "cat"}, {"0": "a", "00": "b"}, {"categories": [{"id": None, "name": e} for e in entries]}, "text", 3, None,
        {"classes": entries, "ignore_label": "x"}, {"classes": entries, "ignore_label": True},
        {"classes": entries, "palette": [[0, 0, 0]]}, {"classes": entries, "ignore_colors": 3},
        {"categories": [{"name": e, "synonyms": None} for e in entries]},
    ][int(rng.integers(22))]  # fmt: skip


def _files(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    for index in range(count):
        own = index % 4 == 3
        suffix = str(rng.choice([".txt", ".json"])) if own else _SUFFIXES[index % len(_SUFFIXES)]
        encoding = _ENCODINGS[int(rng.integers(len(_ENCODINGS)))] if index % 2 else "utf-8"
        odd = index % 3 > 0
        content: Any = _entries(rng, odd=odd)
        expected = None if odd or encoding not in ("utf-8", "utf-8-sig", "utf-16") else _expected(content)
        if odd and suffix.lower() in (".json", ".yaml", ".yml"):
            content = _wrapped(rng, content)
        try:
            raw = _text(content, suffix).encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
        except (UnicodeEncodeError, yaml.YAMLError):
            raw = _text(content, ".txt").encode("utf-8", "replace")
        how = "whole"
        if index % 5 == 4:
            how, raw = damage(rng, raw)
            expected = None
        name = f"classes{suffix}" if own else f"names{suffix}"
        title = f"{name} in {encoding}, {how}: {str(content)[:60]} #{index}"
        yield Trial(title, _file(name, raw, expected, folder_classes=own))


def _hostile(folder_classes: bool) -> Iterator[Trial]:
    """Files meant to hang, to eat the memory or to run code."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    )
    contents = {
        "names.yaml": f"names: {bomb[3:].splitlines()[0]}\nclasses: []\n{bomb[35:]}",
        "code.yaml": f"!!python/object/apply:os.system ['touch ../{CANARY}']\n",
        "new.yaml": f"names: !!python/object/new:os.system ['touch ../{CANARY}']\n",
        "deep.json": "[" * 100000,
        "deep.yaml": "[" * 3000,
        "number.json": '{"names": {"' + "9" * 5000 + '": "cat"}}',
        "big.json": "[" + "9" * 5000 + "]",
        "nan.json": '["cat", NaN]',
        "binary.csv": "cat\0dog",
        "wide.csv": "x" * 200000,
        "quote.csv": '"cat\n' * 1000,
        "pair.json": '["\\ud83d"]',
        "many.txt": "\n".join(f"class {i}" for i in range(20000)),
    }
    for name, text in contents.items():
        target = ("classes.json" if name.endswith(".json") else "classes.txt") if folder_classes else name
        yield Trial(f"{name} as {target}", _file(target, text.encode(), None, folder_classes=folder_classes))


def _parsed(text: str) -> Callable[[Path], None]:
    return lambda _folder: _check(Vocabulary.parse(text).names)


def _given(words: Any) -> Callable[[Path], None]:
    return lambda _folder: _check(Vocabulary.from_words(words).names)


_TEXTS = (
    "", " ", ",", ";", ";;,", "cat", "cat,cat", "Cat, cat", "~", "~/x.txt", "/", ".", "..", "\0", "a\0b", "cat\n", "x" * 5000,
    "no.txt", "no.json, cat", "/no/such", "cat; sofa,couch;", "\ufeffcat", "\udcff", "\ud800", "ade20k_150", "toybox_val",
    "coco_2017_train",    "https://example.org/names.txt", "~nobody-of-that-name/x.txt", "cat;;dog", "cat,\tdog",
)  # fmt: skip
_WORDS: tuple[Any, ...] = (
    None, 3, "cat", b"cat", [], (), {}, {"cat": 1}, [None], [1], [["cat"]], [[]], [""], ["a", "A"], [b"cat"],
    np.array(["cat"]), np.zeros(3), ["cat", ("sofa", "couch")], [["sofa", "sofa"]], iter(["cat"]), {"cat", "dog"},
    ["\ud800"], ["a\0b"],
    [","], object(), [object()], ["x" * 100000], [["a", ["b"]]], float("nan"), Path("cat"), [Path("cat")], range(3),
    ["\udcff\udcfe"],
)  # fmt: skip


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Values of the command line and of Python first, then files."""
    fixed = [Trial(f"parse {text[:40]!r}", _parsed(text)) for text in _TEXTS]
    fixed += [Trial(f"words {type(words).__name__!s} {str(words)[:40]!r}", _given(words)) for words in _WORDS]
    fixed += [*_hostile(False), *_hostile(True)]
    chosen = rng.permutation(len(fixed))[: max(8, count // 2)]
    yield from (fixed[i] for i in chosen)
    yield from _files(rng, max(1, count - len(chosen)))


DOOR = Door("words", trials)

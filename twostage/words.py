"""Class names as people write them: one spelling of synonyms, and every kind of file that holds a list of names.

Own words go through here (command line, API, files, folders); the class lists of published datasets keep their letters.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from twostage.errors import UserError, shown

# Digits of a class's number.
_LONGEST_NUMBER = 10
# What makes a word look like a file.
FILE_SUFFIXES = (".txt", ".names", ".csv", ".json", ".yaml", ".yml")
# Control characters and halves of surrogate pairs: no text encoding or terminal takes them.
_NO_LETTERS = ("Cc", "Cs")
# Invisible format characters: byte-order marks, zero-width spaces, soft hyphens, marks of direction.
_INVISIBLE = "Cf"
# The two of them that spell words of some scripts, and join emoji: zero-width (non-)joiners.
_JOINERS = "\u200c\u200d"
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def class_name(entry: Any, *, source: str) -> str:
    """The name of one class: synonyms joined by a comma and a space, however they were given.

    Args:
        entry: a name, one with synonyms behind commas, or a list of synonyms.
        source: what the names came from, for messages.

    Raises:
        UserError: not a name, or nothing in it.

    >>> class_name("sofa,couch,", source="words"), class_name(["sofa", "couch"], source="words")
    ('sofa, couch', 'sofa, couch')
    """
    words = [entry] if isinstance(entry, str) else entry
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{source} has {shown(entry)}, which is no name; names are strings, or lists of synonyms")
    if len(words) > 1 and not all(word.strip(" ,") for word in words):
        raise UserError(f"{source} has {shown(entry)} with an empty synonym; remove it")
    parts = [part for word in words for part in _plain(word).split(",")]
    if any(len(part.strip().splitlines()) > 1 for part in parts):
        raise UserError(
            f"{source} has {shown(entry)}, a name over several lines; put commas (semicolons where names hold synonyms) "
            "between names, or give a file with one name per line"
        )
    name = ", ".join(" ".join(part.split()) for part in parts if part.strip())
    if not name:
        raise UserError(f"{source} has an empty name; remove it")
    if any(unicodedata.category(letter) in _NO_LETTERS for letter in name):
        raise UserError(f"{source} has {shown(name)}, which holds a control character or half of one; remove it")
    return name


def class_names(entries: Iterable[Any], *, source: str) -> tuple[str, ...]:
    """The names of several classes, each once.

    Raises:
        UserError: no names, one that is none, or the same twice, ignoring case.
    """
    names = tuple(class_name(entry, source=f"{source} (position {i})") for i, entry in enumerate(entries, start=1))
    if not names:
        raise UserError(f"{source} is empty; give at least one class name")
    check_distinct(names, source=source)
    return names


def split_words(text: str) -> list[str]:
    """The names in a line that somebody typed: behind commas, or behind semicolons where names hold synonyms; empty ones are
    left out.

    >>> split_words("cat, sofa,"), split_words("cat; sofa, couch")
    (['cat', ' sofa'], ['cat', ' sofa, couch'])
    """
    return [word for word in text.split(";" if ";" in text else ",") if word.replace(",", "").strip()]


def check_distinct(names: Iterable[str], *, source: str) -> None:
    """UserError where a name stands twice, ignoring case."""
    found: set[str] = set()
    for name in names:
        if name.casefold() in found:
            raise UserError(f"{source} has {shown(name)} twice; every class needs a name of its own")
        found.add(name.casefold())


def looks_like_file(text: str) -> bool:
    """Whether a word is meant as a file or folder: by its ending, or by how a path begins or ends."""
    return text.lower().endswith((*FILE_SUFFIXES, "/", "\\")) or text.startswith(("/", "./", "../", "~"))


def read_name_file(path: str | Path) -> list[Any]:
    """The entries of a file of names, in order; each is for `class_name`.

    One class per line (.txt, .names, any other ending or none); a column of a .csv, named "name" where there are several;
    a list in .json or .yaml, or there the objects in use elsewhere: `{"0": "cat"}` (id2label), `{"names": ...}` (YOLO),
    `{"classes": [...]}` (ours), `{"categories": [{"id": 1, "name": "cat"}]}` (COCO).

    Raises:
        UserError: the file can't be read or holds something else.
    """
    path = Path(path).expanduser()
    text = read_text(path)
    kind = path.suffix.lower()
    if kind == ".csv":
        return _csv_column(text, path)
    if kind not in (".json", ".yaml", ".yml"):
        return [line for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text) if kind == ".json" else yaml.safe_load(text)
    # yaml's own constructors trip over odd values: IndexError, KeyError, AttributeError and others.
    except Exception as error:
        raise UserError(f"name list '{path}' is no valid {kind[1:]}: {' '.join(str(error).split())}") from error
    entries = _listed(content)
    if entries is None:
        raise UserError(
            f"name list '{path}' must hold a list of names (or an object with 'names', 'classes' or 'categories', or from "
            "numbers to names)"
        )
    return entries


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Raises:
        UserError: it can't be read, or is no text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"'{path}' can't be read: {error.strerror or error}") from error
    encoding = next((code for mark, code in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"'{path}' is no text; give a file with one name per line, or .json, .yaml or .csv")
    return text


def _plain(word: str) -> str:
    """`word` composed (NFC), without invisible letters, with bytes that an ASCII locale could not name read as UTF-8.

    Joiners stay between letters beyond ASCII, where they are spelling.
    """
    if any("\udc80" <= letter <= "\udcff" for letter in word):
        word = word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    neighbours = zip(["", *word], word, [*word[1:], ""], strict=False)
    kept = [
        letter
        for before, letter, after in neighbours
        if unicodedata.category(letter) != _INVISIBLE
        or (letter in _JOINERS and before > "\x7f" and after > "\x7f" and not (before + after).isspace())
    ]
    return unicodedata.normalize("NFC", "".join(kept))


def _listed(content: Any) -> list[Any] | None:
    """The entries in what a json or yaml file holds, None where there are none."""
    if isinstance(content, list):
        return content
    if not isinstance(content, Mapping):
        return None
    for key in ("names", "classes", "categories"):
        if key in content:
            return _categories(content[key]) if key != "names" else _listed(content[key])
    if content and all(str(key).isdecimal() and len(str(key)) < _LONGEST_NUMBER for key in content):
        return [content[key] for key in sorted(content, key=lambda key: int(key))]
    return None


def with_synonyms(entry: Mapping[str, Any]) -> list[Any]:
    """Name and synonyms of `{"name": ..., "synonyms": ...}` for `class_name`; a single synonym may stand without a list."""
    synonyms = entry.get("synonyms", [])
    return [entry["name"], *(synonyms if isinstance(synonyms, list) else [synonyms])]


def _categories(content: Any) -> list[Any] | None:
    if not isinstance(content, list):
        return None
    if not all(isinstance(entry, Mapping) for entry in content):
        return content
    if not all("name" in entry for entry in content):
        return None
    ordered = sorted(content, key=lambda e: e["id"]) if all(isinstance(e.get("id"), int) for e in content) else content
    return [with_synonyms(entry) for entry in ordered]


def _csv_column(text: str, path: Path) -> list[str]:
    try:
        rows = [
            row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise UserError(f"name list '{path}' is no valid csv: {error}") from error
    if not rows:
        return []
    header = [cell.strip().casefold() for cell in rows[0]]
    if "name" in header:
        column = header.index("name")
        return [row[column] for row in rows[1:] if len(row) > column]
    if any(len(row) != 1 for row in rows):
        raise UserError(
            f"name list '{path}' has several columns and none is called 'name'; put the names into a column 'name', or "
            "quote names that hold commas"
        )
    return [row[0] for row in rows]

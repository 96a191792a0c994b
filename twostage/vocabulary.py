"""Class names -> synonyms; from a list of words, a registered dataset or a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

import twostage.data.registration  # noqa: F401
from twostage.data.catalogue.folders import read_folder_classes
from twostage.errors import UserError
from twostage.files import read_names


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of one prediction, in the order of its class axis.

    Attributes:
        names: as given, stripped; a name may hold synonyms separated by a comma and a space ("sofa, couch").

    >>> Vocabulary.from_words(["cat", "sofa, couch"]).synonyms(split=True)
    (('cat',), ('sofa', 'couch'))
    """

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def synonyms(self, *, split: bool) -> tuple[tuple[str, ...], ...]:
        """What is embedded for each class: its synonyms, or with `split` False the whole string as one.

        As in the published systems, only a comma followed by a space separates synonyms.
        """
        if not split:
            return tuple((name,) for name in self.names)
        return tuple(tuple(part.strip() for part in name.split(", ") if part.strip()) for name in self.names)

    @classmethod
    def from_words(cls, words: Sequence[str], *, source: str = "vocabulary", unique: bool = True) -> Vocabulary:
        """Check and strip `words`.

        Raises:
            UserError: no words, an empty word, or (with `unique`) the same name twice, ignoring case.
        """
        if isinstance(words, str):
            raise UserError(f"{source} is one string; give a list of names, like ['cat', 'sofa, couch']")
        names = tuple(str(word).strip() for word in words)
        if not names:
            raise UserError(f"{source} is empty; give at least one class name")
        for index, name in enumerate(names):
            if not name.strip(" ,"):
                raise UserError(f"{source} has an empty name at position {index + 1}; remove it")
        if unique:
            _check_unique(names, source)
        return cls(names)

    @classmethod
    def from_dataset(cls, dataset_name: str) -> Vocabulary:
        """The names to ask for on a registered dataset (metadata `prompt_classes`, else `stuff_classes`, `thing_classes`).

        `prompt_classes` are there where they are not the classes of the labels, as with a background made of many words.
        """
        metadata = MetadataCatalog.get(dataset_name)
        names = metadata.get("prompt_classes") or metadata.get("stuff_classes") or metadata.get("thing_classes")
        if not names:
            raise UserError(f"dataset '{dataset_name}' has no class names (metadata stuff_classes); is it registered?")
        # Published class lists do contain the same name twice; the class axis has to keep both.
        return cls.from_words(names, source=f"class list of '{dataset_name}'", unique=False)

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """One class per line, or a json list of names."""
        return cls.from_words(read_names(path), source=f"vocabulary file '{path}'")

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """A command-line value: names separated by commas (by semicolons where names hold synonyms), a file of names, a
        registered dataset, or a dataset folder of your own.

        >>> Vocabulary.parse("cat; sofa, couch").names
        ('cat', 'sofa, couch')
        """
        if text.endswith((".txt", ".json")):
            return cls.from_file(text)
        if text in DatasetCatalog.list():
            return cls.from_dataset(text)
        if _is_folder(text):
            return cls.from_words(read_folder_classes(Path(text)).names, source=f"class list of '{text}'")
        separator = ";" if ";" in text else ","
        if not text.strip(" ,;"):
            raise UserError("the vocabulary is empty; give names such as --vocabulary 'cat, sofa'")
        return cls.from_words([word for word in text.split(separator) if word.strip()])


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError:
        # A list of words can be longer than a file name may be.
        return False


def _check_unique(names: Iterable[str], source: str) -> None:
    seen: set[str] = set()
    for name in names:
        key = name.casefold()
        if key in seen:
            raise UserError(f"{source} has {name!r} twice; every class needs a name of its own")
        seen.add(key)

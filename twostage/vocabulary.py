"""Class names -> synonyms; from a list of words, a registered dataset or a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from twostage.data.catalogue import DatasetInfo, benchmarks
from twostage.data.catalogue.folders import read_folder_classes
from twostage.data.views import dataset_info, registered_names
from twostage.errors import UserError
from twostage.words import class_names, looks_like_file, read_name_file, split_words


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes of one prediction, in the order of its class axis.

    Attributes:
        names: a name may hold synonyms, separated by a comma and a space ("sofa, couch").

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
    def from_words(
        cls, words: Sequence[str | Sequence[str]], *, source: str = "vocabulary", from_strangers: bool = False
    ) -> Vocabulary:
        """One's own words; synonyms stand behind commas or in a list of their own.

        Args:
            from_strangers: whoever asks may not learn which files this machine has, so that no word is looked for on the disk.

        Raises:
            UserError: no words, something that is no word, a file where a word belongs, or the same name twice.

        >>> Vocabulary.from_words(["cat", ["sofa", "couch"]]).names
        ('cat', 'sofa, couch')
        """
        if isinstance(words, str):
            raise UserError(f"{source} is one string; give a list of names, like ['cat', 'sofa, couch']")
        if not isinstance(words, Iterable) or isinstance(words, bytes):
            raise UserError(f"{source} is {words!r}; give a list of names, like ['cat', 'sofa, couch']")
        names = class_names(words, source=source)
        for name in names:
            if not from_strangers and looks_like_file(name) and _exists(name):
                raise UserError(f"{source} has {name!r}, which is a file or folder; give its names, or it alone")
        return cls(names)

    @classmethod
    def published(cls, names: Sequence[str]) -> Vocabulary:
        """The class list of a published dataset or system: its letters stay, and the same name may stand twice."""
        return cls(tuple(str(name).strip() for name in names))

    @classmethod
    def from_dataset(cls, dataset_name: str) -> Vocabulary:
        """The names to ask for on a registered dataset, whatever a config makes of them (`twostage.data.views`).

        Raises:
            UserError: no such dataset, or one without names.
        """
        return cls.of(dataset_info(dataset_name))

    @classmethod
    def of(cls, info: DatasetInfo) -> Vocabulary:
        """The names to ask for on a dataset: not the classes of the labels where a background is made of many words.

        Raises:
            UserError: it has none.
        """
        if not info.prompts:
            raise UserError(f"dataset '{info.name}' has no class names (metadata stuff_classes)")
        return cls.published(info.prompts)

    @classmethod
    def from_file(cls, path: str | Path) -> Vocabulary:
        """A file of names, see `twostage.words.read_name_file`."""
        return cls.from_words(read_name_file(path), source=f"name list '{path}'")

    @classmethod
    def parse(cls, text: str) -> Vocabulary:
        """A command-line value: names separated by commas (by semicolons where names hold synonyms), a file of names, a
        registered dataset or benchmark, or a dataset folder of your own.

        Raises:
            UserError: no names, or a path that is none of these.

        >>> Vocabulary.parse("cat; sofa,couch").names
        ('cat', 'sofa, couch')
        """
        if not text.replace(",", "").replace(";", "").strip():
            raise UserError(f"{text!r} names nothing; give words such as 'cat, sofa'")
        registered = registered_names()
        for name in (text, f"{text}_val", f"{text}_train", _published_as(text)):
            if name in registered:
                return cls.from_dataset(name)
        path = Path(os.path.expanduser(text))  # noqa: PTH111  (Path's raises where nobody has a home)
        if _exists(text):
            if path.is_dir():
                return cls.from_words(read_folder_classes(path).names, source=f"class list of '{text}'")
            return cls.from_file(path)
        if looks_like_file(text) and not {",", ";"} & set(text):
            raise UserError(f"'{text}' does not exist; give a file of names, a dataset folder, or the names themselves")
        return cls.from_words(split_words(text))


def _published_as(text: str) -> str:
    """Our name of the validation set of what papers call `text` ("A-150"); "" where they call nothing so."""
    for benchmark in benchmarks().values():
        if text in benchmark.published and "val" in benchmark.splits:
            return next(iter(benchmark.splits["val"].registered))
    return ""


def _exists(text: str) -> bool:
    try:
        return Path(os.path.expanduser(text)).exists()  # noqa: PTH111
    except (OSError, ValueError):
        # A list of words can be longer than a file name may be.
        return False

"""Class lists of the benchmarks, in the variants that published systems ask for: names move mIoU."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

from twostage.errors import UserError, near_names

_FOLDER = Path(__file__).parent / "class_lists"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassNames:
    """One variant of a class list.

    Attributes:
        variant: its name, that of the first published system that used it ("plain": nobody's in particular).
        systems: the published systems that use it.
        source: where it comes from, and its licence where that is known.
        names: what is asked for, in label order; synonyms are separated by ", ". Stray blanks are the authors'.
    """

    variant: str
    systems: tuple[str, ...]
    source: str
    names: tuple[str, ...]

    @property
    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """The names split into synonyms, without stray blanks."""
        return tuple(tuple(part.strip() for part in name.split(",") if part.strip()) for name in self.names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassList:
    """A class list with its variants, the first being the usual one.

    Attributes:
        class_names: names of the classes that labels hold, where these are not what is asked for (PAS-20b).
    """

    name: str
    about: str
    variants: tuple[ClassNames, ...]
    class_names: tuple[str, ...] | None = None

    def variant(self, system: str) -> ClassNames:
        """The variant of that name, or the one that the published system `system` uses.

        Raises:
            UserError: nobody's; lists the ones there are.
        """
        for names in self.variants:
            if system == names.variant:
                return names
        for names in self.variants:
            if system in names.systems:
                return names
        known = sorted({key for names in self.variants for key in (names.variant, *names.systems)})
        raise UserError(
            f"class names '{system}' do not exist for {self.name}{near_names(system, known)}; "
            f"allowed: auto, {', '.join(known)} (DATASETS.CLASS_NAMES)"
        )

    def knows(self, system: str) -> bool:
        """Whether there is a variant of that name, or one that the published system `system` uses."""
        return any(system in (names.variant, *names.systems) for names in self.variants)

    def report_names(self, variant: ClassNames) -> tuple[str, ...]:
        """Names of the label values in tables: the variant's own where they tell all classes apart."""
        if self.class_names is not None:
            return self.class_names
        unique = len(set(variant.names)) == len(variant.names)
        return variant.names if unique else self.variants[0].names


@functools.cache
def class_list(name: str) -> ClassList:
    """The class list in `class_lists/<name>.json`."""
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    variants = tuple(
        ClassNames(
            variant=key,
            systems=tuple(entry["systems"]),
            source=entry["source"],
            names=tuple(entry["names"]),
        )
        for key, entry in content["variants"].items()
    )
    class_names = tuple(content["class_names"]) if "class_names" in content else None
    return ClassList(name=name, about=content["about"], variants=variants, class_names=class_names)

"""Reads `benchmarks.json`: each benchmark with its splits, and the dataset facts of every registered name."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twostage.data.catalogue.class_lists import ClassList, ClassNames, class_list
from twostage.data.catalogue.info import DatasetInfo
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.catalogue.panoptic_labels import PanopticLabels
from twostage.data.catalogue.records import LABEL_SUFFIXES
from twostage.data.images import IMAGE_SUFFIXES
from twostage.errors import UserError, near_names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a benchmark.

    Attributes:
        images, labels: folders under the datasets root, ours first.
        registered: registered name -> variant of the class names; our own name is the first.
        zero_shot: the name under which seen and unseen classes are reported apart.
        count: labelled pictures of the published set, None where it is not known.
        panoptic: labels of segments, where the benchmark has them.
    """

    name: str
    images: tuple[str, ...]
    labels: tuple[str, ...]
    registered: Mapping[str, str]
    zero_shot: str | None
    count: int | None
    panoptic: PanopticLabels | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as declared in `benchmarks.json`; the attributes are those of `DatasetInfo`.

    Attributes:
        subset: None, or with `subset_of` the classes ("seen" or "unseen") that are kept and renumbered 0, 1, ...;
            all other pixels are ignored (ZSSeg's training sets).
    """

    name: str
    title: str
    published: tuple[str, ...]
    classes: ClassList
    ignore_label: int
    label_bits: int
    splits: Mapping[str, Split]
    things: tuple[int, ...] | None
    unseen: tuple[int, ...]
    background: int | None
    short_edge: int | None
    image_suffixes: tuple[str, ...]
    label_suffixes: tuple[str, ...]
    test_sizes: Mapping[str, tuple[int, int]]
    subset_of: str | None = None
    subset: str | None = None

    @property
    def num_labels(self) -> int:
        """Number of classes that the labels hold."""
        return len(self.kept_classes) if self.subset else len(self._labelled_names)

    @property
    def _labelled_names(self) -> tuple[str, ...]:
        return self.classes.class_names or self.classes.variants[0].names

    @property
    def seen(self) -> tuple[int, ...]:
        """Classes of the zero-shot split that are trained on."""
        return tuple(c for c in range(len(self._labelled_names)) if c not in self.unseen) if self.unseen else ()

    @property
    def kept_classes(self) -> tuple[int, ...]:
        """Of a subset: the classes of `subset_of` in the order of their new numbers."""
        return self.seen if self.subset == "seen" else self.unseen

    def infos(self) -> list[DatasetInfo]:
        """The facts of every registered name of every split."""
        found = []
        for split in self.splits.values():
            found += [self.info(split, name) for name in split.registered]
            if split.zero_shot:
                own = next(iter(split.registered))
                found.append(dataclasses.replace(self.info(split, own), name=split.zero_shot, zero_shot=True))
        return found

    def info(self, split: Split, name: str) -> DatasetInfo:
        """The facts of the registered `name` of `split`, with the class names of who uses it."""
        info = DatasetInfo(
            name=name,
            benchmark=self.name,
            split=split.name,
            title=self.title,
            published=self.published,
            class_names=(),
            prompts=(),
            images=split.images,
            labels=split.labels,
            ignore_label=self.ignore_label,
            label_bits=self.label_bits,
            image_suffixes=self.image_suffixes,
            label_suffixes=self.label_suffixes,
            things=self._renumbered(self.things) if self.things is not None else None,
            seen=() if self.subset else self.seen,
            unseen=() if self.subset else self.unseen,
            background=self.background,
            short_edge=self.short_edge,
            test_sizes=self.test_sizes,
            count=split.count,
            panoptic=split.panoptic,
        )
        return self.with_names(info, split.registered[name], report=True)

    def with_names(self, info: DatasetInfo, system: str, *, report: bool = False) -> DatasetInfo:
        """`info` with the class names of `system` ("catseg", "san", ...); with `report` in tables, too.

        Raises:
            UserError: no such variant.
        """
        variant = self.classes.variant(system)
        names = variant.names
        prompts = tuple(names[c] for c in self.kept_classes) if self.subset else names
        changes: dict[str, Any] = {
            "prompts": prompts,
            "names_variant": variant.variant,
            "prompt_to_class": self._fold(variant),
        }
        if report:
            reported = self.classes.report_names(variant)
            changes["class_names"] = tuple(reported[c] for c in self.kept_classes) if self.subset else reported
        return dataclasses.replace(info, **changes)

    def _fold(self, variant: ClassNames) -> tuple[int, ...]:
        """Class of every prompt: itself; where there are more prompts than classes, the last class takes the rest."""
        if self.subset:
            return tuple(range(len(self.kept_classes)))
        return tuple(min(i, len(self._labelled_names) - 1) for i in range(len(variant.names)))

    def _renumbered(self, classes: tuple[int, ...]) -> tuple[int, ...]:
        if not self.subset:
            return classes
        return tuple(new for new, old in enumerate(self.kept_classes) if old in classes)


@functools.cache
def benchmarks() -> Mapping[str, Benchmark]:
    """All benchmarks by name, in the order of the file."""
    content = json.loads(Path(__file__).with_name("benchmarks.json").read_text(encoding="utf-8"))
    sizes = {key: value for key, value in content["test_sizes"].items() if key != "about"}
    declared = content["benchmarks"]
    return {name: _benchmark(name, _with_parent(entry, declared), sizes) for name, entry in declared.items()}


def _with_parent(entry: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    """A subset inherits all it does not say itself, image folders included."""
    if "subset_of" not in entry:
        return entry
    parent = declared[entry["subset_of"]]
    splits = {key: {"images": parent["splits"][key]["images"], **split} for key, split in entry["splits"].items()}
    return {**parent, **entry, "splits": splits}


def _benchmark(name: str, entry: dict[str, Any], sizes: dict[str, Any]) -> Benchmark:
    things = entry.get("things")
    if isinstance(things, dict):
        things = range(things["from"], things["to"])
    return Benchmark(
        name=name,
        title=entry["title"],
        published=tuple(entry["published"]),
        classes=class_list(entry["classes"]),
        ignore_label=entry["ignore_label"],
        label_bits=entry["label_bits"],
        splits={key: _split(key, split, entry.get("panoptic")) for key, split in entry["splits"].items()},
        things=None if things is None else tuple(things),
        unseen=tuple(entry.get("unseen", ())),
        background=entry.get("background"),
        short_edge=entry.get("short_edge"),
        image_suffixes=tuple(entry.get("image_suffixes", IMAGE_SUFFIXES)),
        label_suffixes=tuple(entry.get("label_suffixes", LABEL_SUFFIXES)),
        test_sizes={key: (size[0], size[1]) for key, size in {**sizes, **entry.get("test_sizes", {})}.items()},
        subset_of=entry.get("subset_of"),
        subset=entry.get("subset"),
    )


def _split(name: str, entry: dict[str, Any], panoptic: dict[str, Any] | None) -> Split:
    return Split(
        name=name,
        images=tuple(entry["images"]),
        labels=tuple(entry["labels"]),
        registered=dict(entry["registered"]),
        zero_shot=entry.get("zero_shot"),
        count=entry.get("count"),
        panoptic=_panoptic(entry["panoptic"], panoptic) if panoptic and "panoptic" in entry else None,
    )


def _panoptic(entry: dict[str, Any], shared: dict[str, Any]) -> PanopticLabels:
    ids = shared["category_ids"]
    if isinstance(ids, str):
        ids = label_ids(ids)
    elif isinstance(ids, dict):
        ids = range(ids["from"], ids["to"])
    return PanopticLabels(
        folders=tuple(entry["folders"]),
        files=tuple(entry["files"]),
        category_ids=tuple(ids),
        suffix=shared["suffix"],
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def find_benchmark(text: str) -> Benchmark:
    """A benchmark by its name, a registered name of one of its splits or what papers call it ("A-847", "VOC21").

    Raises:
        UserError: unknown; names the near ones.
    """
    known: dict[str, Benchmark] = {}
    for benchmark in benchmarks().values():
        names = [benchmark.name, *benchmark.published]
        for split in benchmark.splits.values():
            names += [*split.registered, *([split.zero_shot] if split.zero_shot else [])]
        for name in names:
            known.setdefault(_plain(name), benchmark)
    if _plain(text) not in known:
        near = near_names(text.lower(), benchmarks())
        raise UserError(f"benchmark '{text}' is not known{near}; there are: {', '.join(benchmarks())}")
    return known[_plain(text)]

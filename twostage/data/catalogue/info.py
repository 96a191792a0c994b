"""What is known about one registered dataset; the same for benchmarks, toybox and folders of one's own."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twostage.data.catalogue.panoptic_labels import PanopticLabels
from twostage.data.catalogue.records import IMAGE_SUFFIXES, LABEL_SUFFIXES, list_records
from twostage.errors import UserError
from twostage.machine import datasets_root


def class_list_hash(names: Sequence[str]) -> str:
    """SHA-256 of a class list; two evaluations can only be compared where it is the same."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Facts about a registered dataset of pictures and label maps.

    Attributes:
        name: the registered name.
        benchmark: what `tools/prepare_datasets.py` calls it; "" where other code has registered it.
        split: "train" or "val"; "" where a folder has no splits.
        published: names in the papers' tables ("A-150").
        class_names: names of the K values that labels hold, for tables.
        prompts: the P names that a model is asked for, synonyms separated by ", " (K of them, except in PAS-20b).
        prompt_to_class: P indices, the class that each prompt counts as.
        names_variant: which variant of the class list `prompts` is.
        ignore_label: value of pixels that count nowhere.
        label_bits: 8 or 16, the width that labels need.
        images, labels: folders, under the datasets root unless absolute; ours first, then other published layouts.
        things: classes that come as countable things; None where nobody has defined them.
        seen, unseen: classes of the published zero-shot split, both empty where there is none.
        zero_shot: whether seen and unseen classes are to be reported apart under this name.
        background: the class of pixels that no name fits, where there is one.
        short_edge: pictures were reduced to this short edge when the labels were made (A-847).
        test_sizes: published system -> (short edge, longest edge) in pixels.
        count: number of labelled pictures in the published set.
        labelled: number of classes that labels hold, the first ones, where it is not all of them (toybox's large vocabulary).
        distractors: number of classes, the last ones, that were added to compete (`twostage.data.distractors`).
        colors: RGB per class, where the dataset brings its own.
        prefix: only pictures whose file name begins with this.
        ensure: called before the files are listed; toybox writes itself.
        panoptic: labels of segments, where the dataset has them.
        kind: what its labels are, Detectron2's `evaluator_type`: "sem_seg", or "captions" for image-caption pairs.
        label_table: the class that each value of a label file counts as (or the ignore label), for training on a part of the
            classes; None: values are classes. `colors` are then of the values.
        load: gives the records of a dataset that other code has registered; None: the files of the folders are listed.
    """

    name: str
    benchmark: str
    split: str
    title: str
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[str, ...]
    prompt_to_class: tuple[int, ...] = ()
    published: tuple[str, ...] = ()
    names_variant: str = "plain"
    ignore_label: int = 255
    label_bits: int = 8
    image_suffixes: tuple[str, ...] = IMAGE_SUFFIXES
    label_suffixes: tuple[str, ...] = LABEL_SUFFIXES
    things: tuple[int, ...] | None = None
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    zero_shot: bool = False
    background: int | None = None
    short_edge: int | None = None
    test_sizes: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    count: int | None = None
    labelled: int | None = None
    distractors: int = 0
    colors: tuple[tuple[int, int, int], ...] | None = None
    prefix: str = ""
    ensure: Callable[[], object] | None = None
    panoptic: PanopticLabels | None = None
    kind: str = "sem_seg"
    label_table: tuple[int, ...] | None = None
    load: Callable[[], list[dict[str, Any]]] | None = dataclasses.field(default=None, compare=False)

    @property
    def num_classes(self) -> int:
        """Number of classes that labels hold."""
        return len(self.class_names) - self.distractors if self.labelled is None else self.labelled

    @property
    def prompt_things(self) -> tuple[int, ...]:
        """Indices of the prompts that count as things."""
        things = self.things or ()
        return tuple(i for i, c in enumerate(self.prompt_to_class or range(len(self.prompts))) if c in things)

    @property
    def image_root(self) -> Path:
        """The first image folder that exists, else ours."""
        return _first_folder(self.images)

    @property
    def label_root(self) -> Path:
        """The first label folder that exists, else ours."""
        return _first_folder(self.labels)

    @property
    def class_hash(self) -> str:
        """Hash of the names that a model is asked for."""
        return class_list_hash(self.prompts)

    @property
    def is_own_folder(self) -> bool:
        """Whether this is (a split of) a folder of the user's own, which `benchmark` then is."""
        return Path(self.benchmark).is_absolute()

    @property
    def cure(self) -> str:
        """What to do where its files are missing, by who makes them."""
        if self.is_own_folder:
            return (
                f"put it there (images/, labels/ and panoptic/ of your own '{self.benchmark}' hold the same splits), or make "
                f"the split by `twostage prepare {self.benchmark} --coco FILE --pictures DIR`"
            )
        if not self.benchmark:
            return "other code has registered this dataset: see what folders it names in its metadata"
        if self.ensure is not None:
            return (
                f"it is written on first use: see that '{datasets_root()}' (DETECTRON2_DATASETS) can be written, and remove "
                f"what is there of '{self.benchmark}'"
            )
        return (
            f"make it by `twostage prepare {self.benchmark} --source DIR` (DETECTRON2_DATASETS names the folder of all "
            "datasets)"
        )

    def records(self, *, broken: list[str] | None = None) -> list[dict[str, Any]]:
        """`{"file_name", "sem_seg_file_name"}` of every labelled picture, sorted.

        Args:
            broken: labels without a picture are described here and left out; None makes them an error.

        Raises:
            UserError: a folder is missing or holds no pair of picture and label, or a picture is missing.
        """
        if self.load is not None:
            return self.load()
        if self.ensure is not None:
            self.ensure()
        return list_records(
            self.image_root,
            self.label_root,
            image_suffixes=self.image_suffixes,
            label_suffixes=self.label_suffixes,
            prefix=self.prefix,
            dataset=self.name,
            broken=broken,
        )

    def panoptic_records(
        self, records: list[dict[str, Any]], *, broken: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """`records` with `pan_seg_file_name` and `segments_info`; see `PanopticLabels.add_to`.

        Raises:
            UserError: the dataset has no panoptic labels, or they are missing or broken.
        """
        self.check_panoptic()
        if self.panoptic is None:  # other code's records bring them along
            return records
        return self.panoptic.add_to(records, image_suffixes=self.image_suffixes, broken=broken)

    def check_panoptic(self) -> None:
        """Raise UserError where there are no panoptic labels."""
        if self.panoptic is None and self.load is None:
            raise UserError(
                f"dataset '{self.name}' has no panoptic labels; set TEST.PANOPTIC False, INPUT.TARGET_MASKS class"
            )
        if self.panoptic is not None:
            self.panoptic.check(self.name, self.cure)


def _first_folder(folders: Sequence[str]) -> Path:
    paths = [datasets_root() / folder for folder in folders]
    return next((path for path in paths if path.is_dir()), paths[0])

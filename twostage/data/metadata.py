"""Dataset facts in Detectron2's metadata, written and read; the one place that knows the keys.

| metadata key       | meaning                                                                                              |
|--------------------|------------------------------------------------------------------------------------------------------|
| `info`             | our own facts (`DatasetInfo`); datasets of other code have none                                      |
| `stuff_classes`    | names of the K classes that the labels hold                                                          |
| `labelled_classes` | how many of them, the first ones, labels do hold; the others only compete (optional, all)            |
| `ignore_label`     | value of pixels that count nowhere                                                                   |
| `evaluator_type`   | kind of the labels: "sem_seg", or "captions" for image-caption pairs                                 |
| `prompt_classes`   | the P names that the model is asked for, where they are not the K classes (optional)                 |
| `prompt_to_class`  | P indices: the class that each prompt counts as (with `prompt_classes`)                              |
| `background_class` | the class of pixels that no name fits; an oracle names it whatever is shown (optional)               |
| `seen_classes`, `unseen_classes` | indices of the split of open-vocabulary benchmarks (optional)                          |
| `thing_ids`        | indices of the classes that come as countable things, for panoptic quality (optional)                |
| `stuff_colors`     | RGB per class (optional)                                                                             |
| `image_root`, `sem_seg_root` | folders of pictures and labels; saved predictions keep the folders below (optional)   |

Folding PAS-20b's background (CAT-Seg, CVPR 2024) is `prompt_to_class`: 59 names are asked for, those from 20 on count as
class 20, "background". A background made of many words is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from detectron2.data.catalog import Metadata

from twostage.data.catalogue import DatasetInfo
from twostage.errors import UserError


def metadata_of(info: DatasetInfo) -> dict[str, Any]:
    """The entries for Detectron2's metadata."""
    found: dict[str, Any] = {
        "info": info,
        "stuff_classes": list(info.class_names),
        "ignore_label": info.ignore_label,
        "evaluator_type": info.kind,
        "image_root": str(info.image_root),
        "sem_seg_root": str(info.label_root),
    }
    if info.prompts != info.class_names:
        found["prompt_classes"] = list(info.prompts)
        found["prompt_to_class"] = list(info.prompt_to_class or range(len(info.prompts)))
    if info.num_classes < len(info.class_names):
        found["labelled_classes"] = info.num_classes
    if info.zero_shot:
        found["seen_classes"], found["unseen_classes"] = list(info.seen), list(info.unseen)
    if info.things is not None:
        found["thing_ids"] = list(info.things)
    if info.background is not None:
        found["background_class"] = info.background
    if info.colors is not None:
        found["stuff_colors"] = [list(color) for color in info.colors]
    return found


def info_of(metadata: Metadata, load: Callable[[], list[dict[str, Any]]]) -> DatasetInfo:
    """The facts of a dataset that other code has registered.

    Args:
        load: gives its records.

    Raises:
        UserError: entries that contradict each other.
    """
    classes = _names(metadata, "stuff_classes") or _names(metadata, "thing_classes")
    prompts, table = _names(metadata, "prompt_classes"), _numbers(metadata, "prompt_to_class")
    if len(prompts) != len(table):
        raise UserError(
            f"dataset '{metadata.name}' must give 'prompt_classes' and 'prompt_to_class' together and equally long"
        )
    kind = metadata.get("evaluator_type", None)
    if classes and kind in (None, "sem_seg") and metadata.get("ignore_label", None) is None:
        raise UserError(f"dataset '{metadata.name}' has no 'ignore_label' in its metadata; is it a semantic dataset?")
    seen, unseen = _numbers(metadata, "seen_classes"), _numbers(metadata, "unseen_classes")
    colors, things = metadata.get("stuff_colors", None), metadata.get("thing_ids", None)
    return DatasetInfo(
        name=metadata.name,
        benchmark="",
        split="",
        title="registered by other code",
        class_names=classes,
        prompts=prompts or classes,
        prompt_to_class=table,
        images=_folder(metadata, "image_root"),
        labels=_folder(metadata, "sem_seg_root"),
        ignore_label=int(metadata.get("ignore_label", None) or 0),
        things=None if things is None else tuple(int(c) for c in things),
        seen=seen,
        unseen=unseen,
        zero_shot=bool(seen or unseen),
        background=metadata.get("background_class", None),
        labelled=metadata.get("labelled_classes", None),
        colors=None if colors is None else tuple((int(r), int(g), int(b)) for r, g, b in colors),
        kind=str(kind),
        load=load,
    )


def _names(metadata: Metadata, key: str) -> tuple[str, ...]:
    return tuple(str(name) for name in metadata.get(key, None) or ())


def _numbers(metadata: Metadata, key: str) -> tuple[int, ...]:
    return tuple(int(number) for number in metadata.get(key, None) or ())


def _folder(metadata: Metadata, key: str) -> tuple[str, ...]:
    folder = metadata.get(key, None)
    return (str(Path(folder).absolute()),) if folder else ()

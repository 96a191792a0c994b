"""A folder of one's own as a dataset.

    my_set/
      images/       a.jpg ...
      labels/       a.png ...: the index of its class per pixel (8-bit PNG, 16-bit above 255 classes), 255 (65535) ignored
      classes.txt   one class per line in label order, synonyms separated by commas

With splits, images/ and labels/ hold folders of the same names (train/, val/, ...), each its own dataset `my_set_train`, ...
Where label maps lie beside such folders (sequences, say), all of them together are one dataset.
Instead of classes.txt, classes.json says more: a list of names, or
`{"classes": [{"name": "sofa", "synonyms": ["couch"], "color": [200, 40, 40], "thing": true}, ...], "ignore_label": 255}`,
or `{"classes": ["cat", ["sofa", "couch"]], "palette": [[0, 90, 200], [200, 40, 40]]}`. Labels in these colours are turned
into indices by `twostage prepare my_set/`; "ignore_colors", a list, become the ignore label.

`twostage prepare my_set/ --coco FILE` makes such a folder of a COCO json (`twostage.data.preparation.coco_json`).

`"unseen": ["sofa", ...]` in classes.json names classes that are not to be trained on: seen and unseen ones are then reported
apart, and `my_set_train_seen` is `my_set_train` for training, without them: their pixels are ignored, the others renumbered.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.catalogue.info import DatasetInfo
from twostage.data.catalogue.panoptic_labels import PanopticLabels
from twostage.data.catalogue.records import LABEL_SUFFIXES, files_by_key
from twostage.data.labels import Color, is_color_picture, read_label_map
from twostage.errors import UserError, shown
from twostage.words import check_distinct, class_name, read_text, with_synonyms

# So many label maps of a folder are looked at before a run starts; usually the first settles it.
_SEEN_FILES = 32
# What a classes.json may hold.
_KEYS = ("classes", "palette", "ignore_label", "ignore_colors", "unseen")
# Parts of a dataset that must not be mixed.
_USUAL_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderClasses:
    """Content of a classes file.

    Attributes:
        names: in label order, synonyms separated by ", ".
        colors: RGB per class, None where the file gives none.
        things: indices of the classes marked as things; None where the file marks none.
        ignore_colors: colours that stand for no class in labels that are colour pictures.
        unseen: indices of the classes that are not to be trained on.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    things: tuple[int, ...] | None = None
    ignore_label: int = 255
    ignore_colors: tuple[Color, ...] = ()
    unseen: tuple[int, ...] = ()


def folder_infos(entries: Sequence[str]) -> list[DatasetInfo]:
    """The facts of every split of the folders "path" or "name=path".

    Raises:
        UserError: a folder or its classes file is missing or wrong; names it and what is expected.
    """
    found: list[DatasetInfo] = []
    for entry in entries:
        name, separator, path = str(entry).rpartition("=")
        folder = Path(path).expanduser()
        if separator and not name.strip():
            raise UserError(f"DATASETS.FOLDERS has '{entry}'; entries look like 'path' or 'name=path'")
        for info in _infos(name.strip() or folder.resolve().name, folder):
            if info.name in (other.name for other in found):
                raise UserError(f"DATASETS.FOLDERS: two folders are called '{info.name}'; write 'name=path' for one")
            found.append(info)
    return found


def _infos(name: str, folder: Path) -> list[DatasetInfo]:
    if not folder.is_dir():
        raise UserError(f"dataset folder '{folder}' does not exist; check DATASETS.FOLDERS")
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise UserError(f"dataset folder '{folder}' has no '{part}/'; it needs images/, labels/ and classes.txt")
    classes = read_folder_classes(folder)
    splits = _splits(folder)
    root = folder.resolve()
    return [
        DatasetInfo(
            name=f"{name}_{split}" if split else name,
            benchmark=str(root),
            split=split,
            title=f"the folder {folder}",
            class_names=classes.names,
            prompts=classes.names,
            images=(str(root / "images" / split),),
            labels=(str(root / "labels" / split),),
            ignore_label=classes.ignore_label,
            label_bits=16 if max(len(classes.names) - 1, classes.ignore_label) > 255 else 8,
            things=classes.things,
            colors=classes.colors,
            seen=tuple(c for c in range(len(classes.names)) if c not in classes.unseen) if classes.unseen else (),
            unseen=classes.unseen,
            zero_shot=bool(classes.unseen),
            panoptic=_panoptic(root, split, len(classes.names)),
        )
        for split in splits or [""]
    ]


def _panoptic(root: Path, split: str, classes: int) -> PanopticLabels | None:
    """`panoptic/<split>.json`, whose categories are our classes, and the PNGs in `panoptic/<split>/`, where they are there."""
    listed = root / "panoptic" / f"{split}.json"
    if not split or not listed.is_file():
        return None
    return PanopticLabels(
        folders=(str(root / "panoptic" / split),), files=(str(listed),), category_ids=tuple(range(classes))
    )


def seen_only(info: DatasetInfo) -> DatasetInfo:
    """`<name>_seen`: the set for training on its seen classes, numbered 0, 1, ...; pixels of unseen ones are ignored."""
    names = tuple(info.class_names[c] for c in info.seen)
    place = {c: index for index, c in enumerate(info.seen)}
    return dataclasses.replace(
        info,
        name=f"{info.name}_seen",
        class_names=names,
        prompts=names,
        things=None if info.things is None else tuple(place[c] for c in info.things if c in place),
        seen=(),
        unseen=(),
        zero_shot=False,
        panoptic=None if info.panoptic is None else info.panoptic.of_classes(info.seen),
        label_table=tuple(place.get(c, info.ignore_label) for c in range(len(info.class_names))),
    )


def _splits(folder: Path) -> list[str]:
    """Names of the splits; none where the folders below labels/ are parts of one set, which has files beside them.

    Raises:
        UserError: files beside train/, val/ and the like, or a split of labels without pictures.
    """
    below = [path for path in (folder / "labels").iterdir() if not path.name.startswith(".")]
    folders = sorted(path.name for path in below if path.is_dir())
    splits = [name for name in folders if (folder / "images" / name).is_dir()]
    loose = sorted(p.name for p in below if p.is_file() and p.name.lower().endswith(LABEL_SUFFIXES))
    usual = [name for name in splits if name.lower() in _USUAL_SPLITS]
    if loose and usual:
        raise UserError(
            f"dataset folder '{folder}' has label maps beside its splits ('labels/{loose[0]}' beside 'labels/{usual[0]}/'); "
            "move them into one of the splits, or the splits elsewhere"
        )
    if loose:
        return []
    missing = [name for name in folders if name not in splits]
    if splits and missing:
        raise UserError(
            f"dataset folder '{folder}' has 'labels/{missing[0]}/' but no 'images/{missing[0]}/'; the splits of both need "
            "the same names"
        )
    return splits


def check_labels(info: DatasetInfo) -> None:
    """See that the labels of a folder of one's own are neither colour pictures nor black and white; looks at some files.

    Raises:
        UserError: they are; says what to do.
    """
    if not info.is_own_folder:
        return  # a benchmark, whose labels are prepared by us
    files = list(files_by_key(info.label_root, info.label_suffixes).values())
    first = next(iter(files), None)
    if first is not None and _is_colored(first, info.colors):
        command = f"`twostage prepare {info.benchmark}` turns them into class indices"
        if info.colors is None:
            command = f"give every class in classes.json its 'color', then {command}"
        raise UserError(f"the labels of '{info.name}' are colour pictures ('{first}'): {command}")
    if _are_black_and_white(files[:: max(1, len(files) // _SEEN_FILES)], info):
        raise UserError(f"the labels of '{info.name}' ('{first}'): {black_and_white(info)}")


def black_and_white(info: DatasetInfo) -> str:
    """What is wrong with labels that hold 0 and the ignore label only."""
    return (
        f"labels hold 0 and {info.ignore_label} only, and {info.ignore_label} is ignored: masks of foreground and "
        f"background seem to be saved as black and white, and '{info.class_names[1]}' is never learnt or measured; write "
        "1 for it, or give another ignore_label in classes.json"
    )


def _are_black_and_white(files: Sequence[Path], info: DatasetInfo) -> bool:
    values: set[int] = set()
    for file in files if info.num_classes > 1 else ():
        try:
            values |= set(np.unique(read_label_map(file)).tolist())
        except UserError:
            return False  # whoever reads it says so
        if values - {0, info.ignore_label}:
            return False
    return values == {0, info.ignore_label}


def _is_colored(file: Path, colors: Sequence[Color] | None) -> bool:
    try:
        return is_color_picture(file, colors)
    except UserError:
        return False  # whoever reads it says so


def is_dataset_folder(path: Path) -> bool:
    """Whether `path` is a folder with a classes file."""
    return any((path / name).is_file() for name in ("classes.txt", "classes.json"))


def read_folder_classes(folder: Path) -> FolderClasses:
    """The classes file of a dataset folder.

    Raises:
        UserError: there is none, or it is unreadable, empty, has duplicates or colours that do not fit.
    """
    path = next((folder / name for name in ("classes.json", "classes.txt") if (folder / name).is_file()), None)
    if path is None:
        raise UserError(
            f"dataset folder '{folder}' has neither classes.txt (one class per line, in label order) nor classes.json"
        )
    try:
        text = read_text(path)
        content = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"class list '{path}' can't be read: {' '.join(str(error).split())}") from error
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise UserError(f"class list '{path}' must hold a list of names, or an object with the list 'classes'")
    return _checked(content, path)


def _checked(content: dict[str, Any], path: Path) -> FolderClasses:
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise UserError(f"class list '{path}' has the unknown key '{unknown[0]}'; known: {', '.join(_KEYS)}")
    entries = [_entry(entry, path) for entry in content["classes"]]
    names = tuple(name for name, _, _ in entries)
    if not names:
        raise UserError(f"class list '{path}' is empty; write one class per line")
    check_distinct(names, source=f"class list '{path}'")
    ignore_label = content.get("ignore_label", 255 if len(names) <= 255 else 65535)
    if not isinstance(ignore_label, int) or isinstance(ignore_label, bool) or not len(names) <= ignore_label <= 65535:
        raise UserError(
            f"class list '{path}': ignore_label {shown(ignore_label)} must lie between the {len(names)} classes and 65535"
        )
    colors = [color for _, color, _ in entries]
    palette = content.get("palette", colors if any(color is not None for color in colors) else None)
    things = tuple(index for index, (_, _, thing) in enumerate(entries) if thing)
    return FolderClasses(
        names=names,
        colors=None if palette is None else _palette(palette, len(names), path),
        things=things if any(thing is not None for _, _, thing in entries) else None,
        ignore_label=ignore_label,
        ignore_colors=_ignored(content.get("ignore_colors", []), path),
        unseen=_unseen(content.get("unseen", []), names, path),
    )


def _entry(entry: Any, path: Path) -> tuple[str, Any, bool | None]:
    """(name with synonyms, colour or None, whether it is a thing) of one class of a classes file."""
    color = thing = None
    words = entry
    if isinstance(entry, dict):
        unknown = sorted(set(entry) - {"name", "synonyms", "color", "thing"})
        if unknown or "name" not in entry:
            raise UserError(
                f"class list '{path}': {shown(entry)} must have 'name', and may have 'synonyms', 'color' and 'thing'"
            )
        words = with_synonyms(entry)
        color, thing = entry.get("color"), entry.get("thing")
        if thing not in (True, False, None):
            raise UserError(f"class list '{path}': {shown(entry)} has 'thing' {shown(thing)}; it is true or false")
    return class_name(words, source=f"class list '{path}'"), color, thing


def _unseen(listed: Any, names: Sequence[str], path: Path) -> tuple[int, ...]:
    """Indices of the classes that "unseen" names, each by its whole entry or its first synonym."""
    if not isinstance(listed, list):
        raise UserError(f"class list '{path}': unseen is {shown(listed)}; give a list of names that stand in 'classes'")
    by_name = {name.split(", ")[0].casefold(): index for index, name in enumerate(names)}
    by_name |= {name.casefold(): index for index, name in enumerate(names)}
    found = set()
    for entry in listed:
        name = class_name(entry, source=f"class list '{path}', unseen")
        if name.casefold() not in by_name:
            raise UserError(f"class list '{path}': unseen names '{name}', which is none of its classes")
        found.add(by_name[name.casefold()])
    if len(found) == len(names):
        raise UserError(f"class list '{path}': all classes are unseen; leave some to train on")
    return tuple(sorted(found))


def _is_color(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value)


def _ignored(colors: Any, path: Path) -> tuple[Color, ...]:
    if not isinstance(colors, list) or not all(_is_color(color) for color in colors):
        raise UserError(f"class list '{path}': ignore_colors must be a list of colours [R, G, B] (0..255)")
    return tuple((color[0], color[1], color[2]) for color in colors)


def _palette(palette: Any, count: int, path: Path) -> tuple[Color, ...]:
    if not isinstance(palette, list) or len(palette) != count or not all(_is_color(color) for color in palette):
        raise UserError(f"class list '{path}' needs one colour [R, G, B] (0..255) for each of its {count} classes")
    return tuple((color[0], color[1], color[2]) for color in palette)

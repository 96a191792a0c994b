"""Writes toybox to disk once, as JPEG pictures and PNG label maps in the standard layout.

`<datasets root>/toybox/images/{train,val}/*.jpg`, `annotations/{train,val}/*.png` (indices of `words.CLASSES`, 255 =
ignore), panoptic labels (`panoptic_writer.py`) and `version.json`. The names of validation pictures without unseen classes
begin with "seen". `<datasets root>/toybox_open` holds more training pictures in the same layout, which show unseen classes,
too.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from twostage.data.labels import read_label_map
from twostage.data.toybox.panoptic_writer import PanopticWriter, has_panoptic
from twostage.data.toybox.scenes import Scene, render_scene
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.words import SEEN_STUFF, SEEN_THINGS, UNSEEN_STUFF, UNSEEN_THINGS, Thing
from twostage.errors import UserError

# Raised whenever the same seed gives other bytes; an older copy on disk is then written anew.
VERSION = 2
SEED = 0
NUM_TRAIN = 1200
NUM_VAL_SEEN = 50
NUM_VAL_OPEN = 100
OPEN_VERSION = 1
NUM_TRAIN_OPEN = 1200
# Splits by their number in the random streams.
_SPLITS = ("train", "seen", "open", "train_open")
_SIZES = ((128, 128), (128, 160), (160, 128))  # height, width
JPEG_QUALITY = 92

T = TypeVar("T")


class Plan(NamedTuple):
    """What a scene is to show, and the name of its files."""

    name: str
    stuff: tuple[str, ...]
    things: tuple[Thing, ...]
    height: int
    width: int


def _deck(rng: np.random.Generator, items: Sequence[T]) -> Iterator[T]:
    """Endless shuffled passes over `items`, so that all come up equally often."""
    while True:
        yield from (items[i] for i in rng.permutation(len(items)))


def _take(deck: Iterator[T], count: int) -> tuple[T, ...]:
    """The next `count` items without repeats."""
    taken: dict[T, None] = {}
    while len(taken) < count:
        taken[next(deck)] = None
    return tuple(taken)


def plan_scenes(seed: int, split: str, count: int) -> list[Plan]:
    """Plans of `count` scenes: those of "train" and "seen" show seen classes only, of the others both kinds about equally."""
    rng = np.random.default_rng([seed, _SPLITS.index(split)])
    seen_things, seen_stuff = _deck(rng, SEEN_THINGS), _deck(rng, SEEN_STUFF)
    new_things, new_stuff = _deck(rng, UNSEEN_THINGS), _deck(rng, UNSEEN_STUFF)
    plans = []
    for index in range(count):
        height, width = _SIZES[rng.integers(len(_SIZES))]
        stuff = _take(seen_stuff, int(rng.integers(1, 4)))
        things = _take(seen_things, int(rng.integers(2, 6)))
        if split in ("open", "train_open"):
            if rng.random() < 0.35:
                stuff = (*stuff[:-1], next(new_stuff))
            new = _take(new_things, max(1, round(len(things) / 2)))
            things = (*things[len(new) :], *new)
        order = rng.permutation(len(things))
        plans.append(Plan(f"{split}_{index:05d}", stuff, tuple(things[i] for i in order), height, width))
    return plans


def render(plans: Sequence[Plan], seed: int, split: str) -> Iterator[tuple[Plan, Scene]]:
    """Render `plans` one by one; each scene depends only on the seed, the split and its place in the list."""
    bank = TextureBank(seed)
    for index, plan in enumerate(plans):
        rng = np.random.default_rng([seed, _SPLITS.index(split), index, 1])
        yield plan, render_scene(rng, bank, plan.stuff, plan.things, plan.height, plan.width)


def _counts() -> dict[str, tuple[str, int]]:
    """Split of the plans -> (folder, number of scenes)."""
    return {"train": ("train", NUM_TRAIN), "seen": ("val", NUM_VAL_SEEN), "open": ("val", NUM_VAL_OPEN)}


def write_toybox(folder: Path, *, seed: int = SEED, progress: bool = True) -> None:
    """Write the whole set into the (new) `folder`: same seed, same bytes."""
    for target in ("train", "val"):
        panoptic = PanopticWriter(folder, target, seed)
        for name, scene in _write_scenes(folder, target, _scenes_of(target, seed, progress=progress)):
            panoptic.add(name, scene)
        panoptic.finish()
    (folder / "version.json").write_text(json.dumps({"version": VERSION, "seed": seed}) + "\n")


def write_toybox_open(folder: Path, *, seed: int = SEED, progress: bool = True) -> None:
    """Write the training pictures with unseen classes into the (new) `folder`: same seed, same bytes."""
    for _ in _write_scenes(folder, "train", _scenes("train_open", NUM_TRAIN_OPEN, seed, progress=progress)):
        pass
    (folder / "version.json").write_text(json.dumps({"version": OPEN_VERSION, "seed": seed}) + "\n")


def _write_scenes(folder: Path, target: str, scenes: Iterable[tuple[str, Scene]]) -> Iterator[tuple[str, Scene]]:
    """The named `scenes`, each once its picture and its label map are written."""
    images, annotations = folder / "images" / target, folder / "annotations" / target
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for name, scene in scenes:
        picture = np.ascontiguousarray(scene.image[..., ::-1])
        write_picture(images / f"{name}.jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        write_picture(annotations / f"{name}.png", scene.labels, [])
        yield name, scene


def _scenes_of(target: str, seed: int, *, progress: bool) -> Iterator[tuple[str, Scene]]:
    """File name without suffix and scene of everything in toybox's folder `target` ("train", "val")."""
    for split, (folder, count) in _counts().items():
        if folder == target:
            yield from _scenes(split, count, seed, progress=progress)


def _scenes(split: str, count: int, seed: int, *, progress: bool) -> Iterator[tuple[str, Scene]]:
    """File name without suffix and scene of a split."""
    scenes = render(plan_scenes(seed, split, count), seed, split)
    for plan, scene in tqdm(scenes, f"toybox {split}", count, disable=not progress, leave=False):
        yield plan.name, scene


def write_picture(path: Path, picture: np.ndarray, options: list[int]) -> None:
    """Write `picture` (BGR or grey, as OpenCV has it); OSError where that fails."""
    if not cv2.imwrite(str(path), picture, options):
        raise OSError(f"could not write {path}")


def is_current(folder: Path, version: int = VERSION) -> bool:
    """True where `folder` holds a finished toybox of this version and the default seed."""
    try:
        stamp = json.loads((folder / "version.json").read_text())
    except (OSError, ValueError):
        return False
    return stamp == {"version": version, "seed": SEED}


def ensure_toybox(root: Path) -> Path:
    """`root/toybox`, written first where it is missing or of another version; see `ensure_written`."""
    return ensure_written(root / "toybox", VERSION, write_toybox)


def ensure_toybox_open(root: Path) -> Path:
    """`root/toybox_open`, written first where it is missing or of another version; see `ensure_written`."""
    return ensure_written(root / "toybox_open", OPEN_VERSION, write_toybox_open)


def ensure_panoptic(root: Path, target: str) -> None:
    """Add the panoptic labels of "train" or "val" to `root/toybox` where it was written without: nothing else is touched.

    Raises:
        UserError: the folder can't be written, or its label maps are not those of this version.
    """
    folder = ensure_toybox(root)
    if has_panoptic(folder, target, SEED):
        return
    with _exclusive(folder):
        if has_panoptic(folder, target, SEED):
            return
        fresh = Path(tempfile.mkdtemp(prefix=".toybox-", dir=root))
        try:
            panoptic = PanopticWriter(fresh, target, SEED)
            for name, scene in _scenes_of(target, SEED, progress=True):
                _check_same_labels(folder / "annotations" / target / f"{name}.png", scene.labels)
                panoptic.add(name, scene)
            panoptic.finish()
            panoptic.move_to(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _check_same_labels(path: Path, labels: np.ndarray) -> None:
    if not np.array_equal(read_label_map(path), labels):
        raise UserError(
            f"'{path}' is not what this version of toybox draws; remove '{path.parents[2]}' to have it anew"
        )


def ensure_written(folder: Path, version: int, write: Callable[[Path], None]) -> Path:
    """`folder`, made by `write` first where it is missing or of another version.

    `write` fills an empty folder and puts `version.json` (version, seed) into it. Safe when several processes start at
    once: one writes beside it and renames, the others wait for the lock.

    Raises:
        UserError: the folder can't be written.
    """
    if is_current(folder, version):
        return folder
    with _exclusive(folder):
        if not is_current(folder, version):
            _replace(folder.parent, folder, write)
    return folder


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Holds the lock beside `folder`; an OSError inside becomes a UserError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _Lock(folder.parent / f".{folder.name}.lock"):
            yield
    except OSError as error:
        raise UserError(
            f"toybox can't be written to '{folder}' ({error.strerror or error}); "
            "set DETECTRON2_DATASETS to a folder you can write to"
        ) from error


def _replace(root: Path, folder: Path, write: Callable[[Path], None]) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=".toybox-", dir=root))
    try:
        write(fresh)
        fresh.chmod(0o755)
        if folder.exists():
            stale = Path(tempfile.mkdtemp(prefix=".toybox-old-", dir=root))
            folder.replace(stale / folder.name)
            shutil.rmtree(stale)
        fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


class _Lock:
    """An exclusive lock that the operating system drops when its holder dies (flock)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Lock:
        self._file = self._path.open("w")
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            # No flock here (Windows, some network file systems): fall back to creating a marker file.
            self._wait_for_marker()
        return self

    def _wait_for_marker(self) -> None:
        while True:
            try:
                os.close(os.open(f"{self._path}.held", os.O_CREAT | os.O_EXCL))
                return
            except FileExistsError:
                time.sleep(0.5)

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        Path(f"{self._path}.held").unlink(missing_ok=True)

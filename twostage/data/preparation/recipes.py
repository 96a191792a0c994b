"""How each benchmark's labels are made of its originals: where to look, which files, which conversion."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from twostage.data import catalogue
from twostage.data.catalogue import Benchmark, Split
from twostage.data.catalogue.label_ids import label_ids
from twostage.data.preparation import ade20k_full, indexed, pascal_context
from twostage.data.preparation import panoptic_recipes as panoptic
from twostage.data.preparation.jobs import Convert, Job
from twostage.data.preparation.originals import find_path, read_names
from twostage.errors import UserError
from twostage.machine import datasets_root

_FOLDER = Path(catalogue.__file__).parent
_VOC_LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The labels of one split.

    Attributes:
        jobs: one per label map.
        convert: makes it.
        pictures: the folder in the source that holds the pictures, None where there is none or the conversion writes them.
        links: further folders or files of the source that are used as they come, and where under the datasets root.
        panoptic: panoptic labels that have to be made.
    """

    jobs: Sequence[Job]
    convert: Convert
    pictures: Path | None
    links: tuple[tuple[Path, str], ...] = ()
    panoptic: panoptic.PanopticRecipe | None = None


@functools.cache
def pascal_context_val_names() -> tuple[str, ...]:
    """Base names of PASCAL-Context's 5,104 validation pictures."""
    return tuple((_FOLDER / "pascal_context_val.txt").read_text(encoding="utf-8").split())


# What a user has to download, per benchmark.
DOWNLOADS = {
    "coco_stuff": "stuffthingmaps_trainval2017.zip (COCO-Stuff), and train2017.zip, val2017.zip (COCO) for the pictures",
    "coco_object": "stuffthingmaps_trainval2017.zip (COCO-Stuff), and val2017.zip (COCO) for the pictures",
    "coco_panoptic": "panoptic_annotations_trainval2017.zip and the zips inside, train2017.zip and val2017.zip (COCO)",
    "ade20k_150": "ADEChallengeData2016.zip, and annotations_instance.tar for panoptic labels",
    "ade20k_847": "ADE20K_2021_17_01 (registration at the ADE20K site)",
    "pascal_context_59": "VOC2010's pictures, and trainval_merged.json or the .mat files of trainval.tar.gz",
    "pascal_context_60": "VOC2010's pictures, and trainval_merged.json or the .mat files of trainval.tar.gz",
    "pascal_context_459": "VOC2010's pictures, and the .mat files of PASCAL-Context's trainval.tar.gz",
    "pascal_voc_20": "VOC2012 (VOCtrainval_11-May-2012.tar), and SegmentationClassAug for the 10,582 training labels",
    "cityscapes": "gtFine_trainvaltest.zip and leftImg8bit_trainvaltest.zip",
}


def download_of(benchmark: Benchmark) -> str:
    """What has to be downloaded for a benchmark."""
    name = benchmark.subset_of or benchmark.name
    return DOWNLOADS.get(name, DOWNLOADS["pascal_voc_20"])


def recipe(benchmark: Benchmark, split: Split, source: Path) -> Recipe | None:
    """How to make the labels of `split` from the download in `source`; None where its originals are not there.

    Raises:
        UserError: a list or json file that can't be read.
    """
    target = datasets_root() / split.labels[0]
    name = benchmark.subset_of or benchmark.name
    if name == "coco_panoptic":
        return _coco_panoptic(split, source, target)
    if name.startswith("coco"):
        return _coco(benchmark, split, source, target)
    if name.startswith("pascal_voc"):
        return _voc(benchmark, split, source, target)
    if name.startswith("pascal_context"):
        return _context(benchmark, split, source, target)
    makers: dict[str, Callable[..., Recipe | None]] = {
        "ade20k_150": _ade20k_150,
        "ade20k_847": _ade20k_847,
        "cityscapes": _cityscapes,
    }
    return makers[name](benchmark, split, source, target)


def _coco(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    year = f"{split.name}2017"
    places = [f"coco/stuffthingmaps/{year}", f"stuffthingmaps_trainval2017/{year}", f"coco-stuff/annotations/{year}"]
    found = find_path(source, places, holding=".png")
    if found is None:
        return None
    unused = label_ids("coco_stuff_unused")
    table = (indexed.coco_object_table if benchmark.name == "coco_object" else indexed.coco_stuff_table)(unused)
    return Recipe(
        jobs=indexed.file_jobs(found, target),
        convert=indexed.convert_by(_subset(benchmark, table), original="stuffthingmaps_trainval2017"),
        pictures=find_path(source, [f"coco/{year}", f"coco-stuff/images/{year}"], holding=".jpg"),
    )


def _coco_panoptic(split: Split, source: Path, target: Path) -> Recipe | None:
    """Label maps from the panoptic PNGs; these and the json stay where they are."""
    year, labels = f"{split.name}2017", split.panoptic
    assert labels is not None
    listed = find_path(source, [f"coco/annotations/panoptic_{year}.json"])
    found = find_path(source, [f"coco/panoptic_{year}", f"coco/annotations/panoptic_{year}"], holding=".png")
    if listed is None or found is None:
        return None
    return Recipe(
        jobs=panoptic.coco_jobs(found, listed, target, labels.category_ids),
        convert=panoptic.convert_coco,
        pictures=find_path(source, [f"coco/{year}", f"coco-stuff/images/{year}"], holding=".jpg"),
        links=((found, labels.folders[0]), (listed, labels.files[0])),
    )


def _subset(benchmark: Benchmark, table: list[int]) -> list[int]:
    return indexed.subset_table(table, benchmark.kept_classes) if benchmark.subset else table


def _ade20k_150(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    folder = {"train": "training", "val": "validation"}[split.name]
    found = find_path(source, [f"ADEChallengeData2016/annotations/{folder}"], holding=".png")
    if found is None:
        return None
    instances = find_path(source, [f"ADEChallengeData2016/annotations_instance/{folder}"], holding=".png")
    assert split.panoptic is not None and benchmark.things is not None
    segments = datasets_root() / split.panoptic.folders[0]
    return Recipe(
        jobs=indexed.file_jobs(found, target),
        convert=indexed.convert_by(indexed.ade20k_150_table(), original="ADEChallengeData2016/annotations"),
        pictures=find_path(source, [f"ADEChallengeData2016/images/{folder}"], holding=".jpg"),
        panoptic=panoptic.ade20k_recipe(found, instances, segments, benchmark.things) if instances else None,
    )


def _ade20k_847(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    jobs = ade20k_full.full_jobs(source, split.name, datasets_root() / split.images[0], target)
    if not jobs:
        return None
    return Recipe(jobs=jobs, convert=ade20k_full.convert_full(list(label_ids("ade20k_847"))), pictures=None)


def _cityscapes(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    suffix = "_gtFine_labelIds.png"
    found = find_path(source, [f"cityscapes/gtFine/{split.name}"], holding=f"{suffix}/**")
    if found is None:
        return None
    ids = label_ids("cityscapes")
    assert split.panoptic is not None and benchmark.things is not None
    segments = datasets_root() / split.panoptic.folders[0]
    return Recipe(
        jobs=indexed.file_jobs(found, target, suffix=suffix, new_suffix="_gtFine_labelTrainIds.png"),
        convert=indexed.convert_by(indexed.cityscapes_table(ids), original="gtFine"),
        pictures=find_path(source, [f"cityscapes/leftImg8bit/{split.name}"], holding="_leftImg8bit.png/**"),
        panoptic=panoptic.cityscapes_recipe(found, segments, ids, [ids[thing] for thing in benchmark.things]),
    )


def _voc(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    places = ["VOCdevkit/VOC2012/SegmentationClassAug", "VOCdevkit/VOC2012/SegmentationClass"]
    found = find_path(source, places, holding=".png")
    if found is None:
        return None
    background = benchmark.background if benchmark.background is not None else indexed.IGNORE
    table = _subset(benchmark, indexed.voc_table(background=background))
    return Recipe(
        jobs=[Job(found / f"{name}.png", target / f"{name}.png") for name in sorted(_voc_names(split, source, found))],
        convert=indexed.convert_by(table, original="PASCAL VOC's SegmentationClass", drop_empty=True),
        pictures=find_path(source, ["VOCdevkit/VOC2012/JPEGImages"], holding=".jpg"),
    )


def _voc_names(split: Split, source: Path, labels: Path) -> set[str]:
    """Base names of a split. Training takes the augmented list, else all augmented labels that val does not have."""
    val = find_path(source, [f"{_VOC_LISTS}/val.txt"])
    augmented = find_path(source, [f"{_VOC_LISTS}/{name}" for name in ("trainaug.txt", "train_aug.txt")])
    train = find_path(source, [f"{_VOC_LISTS}/train.txt"])
    wanted = val if split.name == "val" else augmented
    if wanted is None and split.name == "train":
        if val is not None and labels.name == "SegmentationClassAug":
            return {file.stem for file in labels.glob("*.png")} - set(read_names(val))
        wanted = train
    if wanted is None:
        raise UserError(f"no list of the {split.name} pictures in '{source}': {_VOC_LISTS}/{split.name}.txt is needed")
    return set(read_names(wanted))


def _context(benchmark: Benchmark, split: Split, source: Path, target: Path) -> Recipe | None:
    merged = find_path(source, ["VOCdevkit/VOC2010/trainval_merged.json"])
    folder = find_path(source, ["VOCdevkit/VOC2010/trainval"], holding=".mat")
    pictures = find_path(source, ["VOCdevkit/VOC2010/JPEGImages"], holding=".jpg")
    ids = list(label_ids("pascal_context_59"))
    table = {
        "pascal_context_59": lambda: pascal_context.context_59_table(ids),
        "pascal_context_60": lambda: pascal_context.context_60_table(ids),
        "pascal_context_459": pascal_context.context_459_table,
    }[benchmark.name]()
    if merged is not None and benchmark.name != "pascal_context_459":
        jobs = pascal_context.merged_jobs(merged, split.name, target)
        return Recipe(jobs=jobs, convert=pascal_context.convert_merged(table), pictures=pictures)
    if folder is None:
        return None
    jobs = pascal_context.mat_jobs(folder, _context_names(split, source, folder), target)
    return Recipe(jobs=jobs, convert=pascal_context.convert_mat(table), pictures=pictures)


def _context_names(split: Split, source: Path, folder: Path) -> set[str]:
    """Base names of a split among the .mat files: a list in the download, else the published list of val."""
    listed = find_path(
        source, [f"VOCdevkit/VOC2010/{name}" for name in (f"pascalcontext_{split.name}.txt", f"{split.name}.txt")]
    )
    if listed is not None:
        return set(read_names(listed))
    present = {file.stem for file in folder.glob("*.mat")}
    val = set(pascal_context_val_names())
    return present & val if split.name == "val" else present - val

"""Panoptic labels from originals: ADE20K's instance annotations over its label maps, Cityscapes' instance ids; and label maps
from COCO's panoptic PNGs, which are used as they come.

The PNGs are written first. What a segment is can be told from its id, so the json is made of the finished PNGs, and a
stopped run goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.catalogue import Benchmark, DatasetInfo
from twostage.data.images import open_image
from twostage.data.labels import read_label_map
from twostage.data.preparation.jobs import Convert, Job, Report, parallel, run_jobs, write_labels
from twostage.data.segment_maps import (
    category_of,
    describe_segments,
    read_panoptic_json,
    read_segment_map,
    segment_id,
    write_panoptic_json,
    write_segment_map,
)
from twostage.errors import UserError

IGNORE = 255
# Cityscapes: ids from here on are label id * 1000 + number; below, they are label ids, of things several in one piece.
_CITYSCAPES_INSTANCES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticRecipe:
    """The panoptic labels of one split.

    Attributes:
        jobs: one per PNG.
        convert: makes it.
        category: `category_id` of a segment id.
        is_crowd: whether a segment id stands for several things.
        picture_suffix: what the picture's name has in place of the PNG's suffix.
    """

    jobs: Sequence[Job]
    convert: Convert
    category: Callable[[int], int]
    is_crowd: Callable[[int], bool]
    picture_suffix: str


def make_panoptic(
    benchmark: Benchmark, info: DatasetInfo, made: PanopticRecipe, *, workers: int, skip_broken: bool
) -> Report:
    """Write the PNGs that are missing, then the json where one is missing or a PNG is new."""
    assert info.panoptic is not None
    title = f"{benchmark.name} {info.split} panoptic"
    report = run_jobs(made.jobs, made.convert, workers=workers, title=title, skip_broken=skip_broken)
    if not report.written and info.panoptic.file.is_file():
        return report
    finished = sorted(job.target for job in made.jobs if job.target.is_file())
    describe = partial(_describe, made=made, suffix=info.panoptic.suffix, known=frozenset(info.panoptic.category_ids))
    entries = sorted(
        parallel(describe, finished, workers=workers, title=f"{title} json"), key=lambda entry: entry[0]["id"]
    )
    things = set(info.things or ())
    categories = [
        {"id": category, "name": info.class_names[index].split(",")[0].strip(), "isthing": int(index in things)}
        for index, category in enumerate(info.panoptic.category_ids)
    ]
    write_panoptic_json(
        info.panoptic.file,
        images=[image for image, _ in entries],
        annotations=[annotation for _, annotation in entries],
        categories=categories,
        info={"description": f"{benchmark.title}, {info.split}, made by twostage"},
    )
    return report


def _describe(
    path: Path, *, made: PanopticRecipe, suffix: str, known: frozenset[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of a PNG in `images` and `annotations`."""
    ids = read_segment_map(path)
    segments = describe_segments(ids, made.category, is_crowd=made.is_crowd)
    foreign = [segment["id"] for segment in segments if segment["category_id"] not in known]
    if foreign:
        raise UserError(
            f"panoptic label '{path}' holds id {foreign[0]}, which twostage does not write: it was made by another "
            "program, whose json is needed beside it; or delete the folder and prepare again"
        )
    stem = path.name.removesuffix(suffix)
    image = {"id": stem, "file_name": stem + made.picture_suffix, "height": ids.shape[0], "width": ids.shape[1]}
    return image, {"image_id": stem, "file_name": path.name, "segments_info": segments}


def ade20k_recipe(semantic: Path, instances: Path, target: Path, things: Sequence[int]) -> PanopticRecipe:
    """ADE20K, as Mask2Former has it: stuff from the label maps in `semantic`, things from `instances`, on top.

    Things that the instance annotations lack are void.

    Args:
        things: the classes of the 100 instance categories, in their order.
    """
    return PanopticRecipe(
        jobs=[Job(file, target / file.name, instances / file.name) for file in sorted(semantic.glob("*.png"))],
        convert=partial(_convert_ade20k, things=np.array(things)),
        category=category_of,
        is_crowd=lambda _: False,
        picture_suffix=".jpg",
    )


def _convert_ade20k(job: Job, *, things: np.ndarray) -> bool:
    classes = read_label_map(job.source) - 1
    category, number = _ade20k_instances(job.content)
    if category.shape != classes.shape:
        raise UserError(
            f"'{job.content}' is {category.shape} but '{job.source}' is {classes.shape} (height, width); unpack both again"
        )
    is_thing = number > 0
    outside = category[is_thing & ((category < 1) | (category > len(things)))]
    if outside.size:
        raise UserError(
            f"'{job.content}' holds an instance of category {outside[0]}, outside 1..{len(things)}; is it from "
            "annotations_instance?"
        )
    pairs = np.unique(category[is_thing] * 256 + number[is_thing])
    if len(np.unique(pairs % 256)) < len(pairs):
        raise UserError(f"'{job.content}' has an instance of two categories; unpack annotations_instance again")
    is_stuff = (classes >= 0) & ~np.isin(classes, things)
    segments = np.where(is_stuff, segment_id(classes, np.zeros_like(classes)), 0)
    segments[is_thing] = segment_id(things[category[is_thing] - 1], number[is_thing])
    write_segment_map(job.target, segments)
    return True


def _ade20k_instances(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """int64 `[H, W]`: instance category (1..100, 0 none) from red, number of the instance in the picture from green."""
    with open_image(path, what="original", cure="unpack annotations_instance.tar again") as picture:
        if picture.mode not in ("RGB", "RGBA"):
            raise UserError(f"'{path}' is not in colours; is it from annotations_instance?")
        colors = np.asarray(picture.convert("RGB")).astype(np.int64)
    return colors[..., 0], colors[..., 1]


def cityscapes_recipe(source: Path, target: Path, ids: Sequence[int], things: Sequence[int]) -> PanopticRecipe:
    """Cityscapes, as cityscapesscripts' createPanopticImgs has it with label ids: the instance id is the segment's.

    Args:
        source: gtFine/<split>, with a folder per city.
        target: folder of the PNGs, all in one.
        ids: label ids of the classes; other pixels are void.
        things: label ids of the classes that come as things; where these are not numbered, they are crowds.
    """
    suffix = "_gtFine_instanceIds.png"
    crowds = frozenset(things)
    return PanopticRecipe(
        jobs=[
            Job(file, target / f"{file.name.removesuffix(suffix)}_gtFine_panoptic.png")
            for file in sorted(source.rglob(f"*{suffix}"))
        ],
        convert=partial(_convert_cityscapes, ids=np.array(ids)),
        category=_cityscapes_label,
        is_crowd=lambda segment: segment in crowds,
        picture_suffix="_leftImg8bit.png",
    )


def _cityscapes_label(instance: int) -> int:
    return instance if instance < _CITYSCAPES_INSTANCES else instance // _CITYSCAPES_INSTANCES


def _convert_cityscapes(job: Job, *, ids: np.ndarray) -> bool:
    pixels = read_label_map(job.source, largest=65535)
    labels = np.where(pixels < _CITYSCAPES_INSTANCES, pixels, pixels // _CITYSCAPES_INSTANCES)
    write_segment_map(job.target, np.where(np.isin(labels, ids), pixels, 0))
    return True


def coco_jobs(pictures: Path, listed: Path, target: Path, ids: Sequence[int]) -> list[Job]:
    """A job for every annotation of COCO's panoptic json: its label map from its PNG.

    Raises:
        UserError: the json can't be read, or has a category that is not among the `ids` of the classes.
    """
    classes = {category: index for index, category in enumerate(ids)}
    jobs = []
    for entry in read_panoptic_json(listed)["annotations"]:
        try:
            label_of = {int(segment["id"]): classes[segment["category_id"]] for segment in entry["segments_info"]}
        except KeyError as error:
            raise UserError(f"'{listed}' has a segment with {error}, which COCO panoptic does not know") from error
        jobs.append(Job(pictures / entry["file_name"], target / entry["file_name"], label_of))
    return jobs


def convert_coco(job: Job) -> bool:
    """The class of the segment that each pixel belongs to; 255 where there is none."""
    ids = read_segment_map(job.source)
    label_of: Mapping[int, int] = {0: IGNORE, **job.content}
    present, place = np.unique(ids, return_inverse=True)
    unknown = [segment for segment in present.tolist() if segment not in label_of]
    if unknown:
        raise UserError(f"panoptic label '{job.source}' holds id {unknown[0]}, which its json lacks; unpack both again")
    labels = np.array([label_of[segment] for segment in present.tolist()], np.uint8)
    write_labels(job.target, labels[place].reshape(ids.shape))
    return True

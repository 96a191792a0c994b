"""A folder of one's own from a COCO json (cocodataset.org, "Format data"): instances, stuff or panoptic segments.

`images/<split>` becomes a link to the pictures, `labels/<split>/` a label map per picture, classes.json the categories in the
order of their ids. Pixels in no annotation are ignored: nobody says what they show. Where masks overlap, the smaller one lies
above. Of panoptic segments `panoptic/<split>` (a link) and `panoptic/<split>.json` stay for panoptic quality and training by
segment.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from twostage.data.catalogue.folders import read_folder_classes
from twostage.data.preparation.jobs import Job, Report, run_jobs, write_labels
from twostage.data.segment_maps import check_segments, read_segment_map, write_panoptic_json
from twostage.errors import UserError, shown
from twostage.files import content_sha256, write_text
from twostage.words import class_names, with_synonyms

# Beside the label maps of a split: what they were made of.
_STAMP = ".coco.json"


@dataclasses.dataclass(frozen=True)
class CocoJson:
    """What is in the file `path`.

    Attributes:
        images: as they are listed, with `file_name`, `height` and `width`.
        annotations: by the picture's id.
        classes: entries of classes.json.
        index: category id -> class.
        panoptic: whether annotations are lists of segments in a PNG, one per picture.
    """

    path: Path
    images: Sequence[Mapping[str, Any]]
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]]
    classes: Sequence[Mapping[str, Any]]
    index: Mapping[Any, int]
    panoptic: bool

    @property
    def ignore_label(self) -> int:
        return 255 if len(self.classes) <= 255 else 65535


def prepare_coco(
    folder: Path, path: Path, pictures: Path, *, split: str, segments: Path | None, workers: int, skip_broken: bool
) -> Report:
    """Make the split `split` of the dataset folder `folder` from the COCO json `path`.

    Args:
        pictures: the folder that the json's file names lie in.
        segments: that of a panoptic json's PNGs; None: beside the json, called like it.

    Raises:
        UserError: the json is none or contradicts itself, the folder holds another dataset, or an annotation is broken (with
            `skip_broken` such pictures are listed instead).
    """
    coco = read_coco(path)
    if not pictures.is_dir():
        raise UserError(f"'{pictures}' is no folder; give the folder of the json's pictures by --pictures DIR")
    labels = folder / "labels" / split
    _same_or_new(labels, path)
    _write_classes(folder, coco)
    _link(folder / "images" / split, pictures)
    write_text(labels / _STAMP, json.dumps({"source": str(path), "sha256": content_sha256([path])}) + "\n")
    dtype = np.uint8 if coco.ignore_label == 255 else np.uint16
    if coco.panoptic:
        segments = segments or path.with_suffix("")
        if not segments.is_dir():
            raise UserError(
                f"the panoptic PNGs of '{path}' are not in '{segments}'; give their folder by --segments DIR"
            )
        _write_segments(folder, split, coco, segments)
        convert = partial(_from_segments, folder=segments, index=coco.index, ignore=coco.ignore_label, dtype=dtype)
    else:
        if (stale := folder / "panoptic" / f"{split}.json").exists():
            raise UserError(f"'{stale}' is of another json; remove it, or name another folder")
        convert = partial(_from_masks, index=coco.index, ignore=coco.ignore_label, dtype=dtype)
    return run_jobs(
        _jobs(coco, pictures, labels), convert, workers=workers, title=f"{folder.name} {split}", skip_broken=skip_broken
    )


def read_coco(path: Path) -> CocoJson:
    """Read and check the lists of a COCO json.

    Raises:
        UserError: it can't be read, lacks one of them, or an annotation names a picture or category that is not listed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        categories = sorted(content["categories"], key=lambda category: category["id"])
        for image in images.values():
            if not Path(image["file_name"]).name or min(int(image["height"]), int(image["width"])) < 1:
                raise ValueError(f"image {image['id']!r} has no name or no size")
        annotations: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"'{path}' can't be read as COCO json ({type(error).__name__}: {error}); it needs 'images' (id, file_name, "
            "height, width), 'categories' (id, name) and 'annotations' (image_id)"
        ) from error
    names = class_names([with_synonyms(category) for category in categories], source=f"categories of '{path}'")
    index = {category["id"]: place for place, category in enumerate(categories)}
    panoptic = any("segments_info" in entry for entries in annotations.values() for entry in entries)
    _check_references(path, images, index, annotations, panoptic)
    classes = [
        {"name": name} | ({"thing": bool(category["isthing"])} if "isthing" in category else {})
        for name, category in zip(names, categories, strict=True)
    ]
    return CocoJson(path, list(images.values()), annotations, classes, index, panoptic)


def _check_references(
    path: Path,
    images: Mapping[Any, Any],
    index: Mapping[Any, int],
    annotations: Mapping[Any, Sequence[Mapping[str, Any]]],
    panoptic: bool,
) -> None:
    """UserError where an annotation is of a picture or a category that there is not."""
    for image, entries in annotations.items():
        if image not in images:
            raise UserError(f"'{path}' has an annotation of picture {shown(image)}, which it does not list")
        for entry in entries:
            for part in entry.get("segments_info", ()) if panoptic else (entry,):
                if part.get("category_id") not in index:
                    raise UserError(
                        f"'{path}' has an annotation of category {shown(part.get('category_id'))}, which it does not list"
                    )


def _same_or_new(labels: Path, path: Path) -> None:
    """UserError where `labels` holds label maps of something else."""
    stamp = labels / _STAMP
    if not labels.is_dir() or not any(labels.iterdir()):
        return
    try:
        same = json.loads(stamp.read_text(encoding="utf-8"))["sha256"] == content_sha256([path])
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"'{labels}' holds labels that were not made of '{path}'; remove them, or name another folder")


def _write_classes(folder: Path, coco: CocoJson) -> None:
    names = tuple(str(entry["name"]) for entry in coco.classes)
    if any((folder / name).exists() for name in ("classes.json", "classes.txt")):
        known = read_folder_classes(folder).names
        if known != names:
            raise UserError(f"'{folder}' has other classes than '{coco.path}'; name another folder")
        return
    write_text(folder / "classes.json", json.dumps({"classes": coco.classes}, indent=1, ensure_ascii=False) + "\n")


def _link(link: Path, target: Path) -> None:
    """A symbolic link to a folder. UserError where it would lie in it, something else is there, or links can't be made."""
    if link.absolute().is_relative_to(target.resolve()) or link.parent.resolve().is_relative_to(target.resolve()):
        raise UserError(
            f"'{link}' would be a link to '{target}', which it lies in; make the dataset's folder elsewhere"
        )
    if link.exists() or link.is_symlink():
        if link.resolve() != target.resolve():
            raise UserError(f"'{link}' is there and is not '{target}'; remove it, or name another folder")
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target.resolve(), target_is_directory=True)
    except OSError as error:
        raise UserError(f"can't link '{link}' to '{target}' ({error.strerror}); copy the folder there") from error


def _jobs(coco: CocoJson, pictures: Path, labels: Path) -> list[Job]:
    """A job for every picture. Raises UserError where two of the json are one file."""
    known: dict[Path, str] = {}
    jobs = []
    for image in coco.images:
        name = str(image["file_name"])
        place = _below(pictures, name)
        if place in known:
            raise UserError(
                f"'{coco.path}' lists '{known[place]}' and '{name}', which are the same file of '{pictures}'"
            )
        known[place] = name
        size = (int(image["height"]), int(image["width"]))
        target = labels / place.with_suffix(".png")
        jobs.append(Job(pictures / place, target, (size, coco.annotations.get(image["id"], ()))))
    return jobs


def _below(pictures: Path, name: str) -> Path:
    """The place below `pictures` of a file that a json calls `name`: the longest end of that path which is there.

    Many programs write the path from where they ran, or from the root.
    """
    parts = [part for part in Path(name.replace("\\", "/")).parts if part not in ("/", "..")]
    ends = [Path(*parts[first:]) for first in range(len(parts))]
    return next((end for end in ends if (pictures / end).is_file()), Path(*parts))


def _from_masks(job: Job, *, index: Mapping[Any, int], ignore: int, dtype: Any) -> bool:
    """Label map of the masks of one picture, smaller ones over larger ones; False without any."""
    size, annotations = job.content
    _check_picture(job)
    masks = [(_mask(annotation, size, job), index[annotation["category_id"]]) for annotation in annotations]
    labels = np.full(size, ignore, dtype)
    for mask, label in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        labels[mask] = label
    if (labels == ignore).all():
        return False
    write_labels(job.target, labels)
    return True


def _mask(annotation: Mapping[str, Any], size: tuple[int, int], job: Job) -> np.ndarray:
    """bool `[H, W]` of an annotation's polygons or run lengths."""
    form = annotation.get("segmentation")
    where = f"annotation {shown(annotation.get('id'))} of '{job.source}'"
    if not form:
        raise UserError(f"{where} has no mask (segmentation); boxes alone say nothing of pixels")
    if isinstance(form, Mapping) and list(form.get("size", ())) != list(size):
        raise UserError(
            f"{where} is a mask of {form.get('size')}, its picture is listed as {list(size)} (height, width)"
        )
    try:
        parts = coco_mask.frPyObjects(form, *size) if not isinstance(_counts(form), str | bytes) else form
        merged = coco_mask.merge(parts) if isinstance(parts, list) else parts
        return coco_mask.decode(merged).astype(bool)
    except Exception as error:  # pycocotools raises bare ones
        raise UserError(f"{where} has a segmentation that is neither polygons nor run lengths ({error})") from error


def _counts(form: Any) -> Any:
    return form.get("counts") if isinstance(form, Mapping) else None


def _from_segments(job: Job, *, folder: Path, index: Mapping[Any, int], ignore: int, dtype: Any) -> bool:
    """Label map of the segments of one picture's PNG; False where there is none."""
    size, annotations = job.content
    _check_picture(job)
    if not annotations:
        return False
    path, segments = folder / annotations[0]["file_name"], annotations[0]["segments_info"]
    ids = read_segment_map(path)
    if ids.shape != size:
        raise UserError(f"panoptic label '{path}' is {ids.shape}, its picture is listed as {size} (height, width)")
    present, place = np.unique(ids, return_inverse=True)
    check_segments(present.tolist(), segments, path)
    class_of = {0: ignore} | {int(segment["id"]): index[segment["category_id"]] for segment in segments}
    write_labels(job.target, np.array([class_of[i] for i in present.tolist()], dtype)[place].reshape(size))
    return True


def _check_picture(job: Job) -> None:
    if not job.source.is_file():
        raise UserError(f"picture '{job.source}' of the json does not exist")


def _write_segments(folder: Path, split: str, coco: CocoJson, segments: Path) -> None:
    """The panoptic labels with our classes as categories."""
    _link(folder / "panoptic" / split, segments)
    write_panoptic_json(
        folder / "panoptic" / f"{split}.json",
        images=coco.images,
        annotations=[
            {
                **entry,
                "segments_info": [{**s, "category_id": coco.index[s["category_id"]]} for s in entry["segments_info"]],
            }
            for entries in coco.annotations.values()
            for entry in entries
        ],
        categories=[{"id": index, **entry} for index, entry in enumerate(coco.classes)],
        info={"description": f"made of {coco.path.name} by twostage"},
    )

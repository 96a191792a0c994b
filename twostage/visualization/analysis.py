"""The report of one evaluation: which parts of its results file go where on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.data.images import read_rgb
from twostage.data.labels import read_label_map
from twostage.evaluation.oracles import renamed
from twostage.visualization.examples import make_example, pick_images
from twostage.visualization.overlay import enlarged
from twostage.visualization.report import Confusion, ErrorAnalysis, Example, Report, SystemResult, write_report

# Of wrong pixels in the pictures: the region's name is wrong, or its shape is.
CLASSIFICATION_COLOR, MASK_COLOR = (214, 66, 148), (242, 158, 31)
_SHOWN_CONFUSIONS = 12
_ORACLE_TITLES = {
    "classes": "told which classes the image shows",
    "names": "predicted regions, named by the ground truth",
    "regions": "regions of the ground truth, named by the prediction",
}


def write_evaluation_report(path: str | Path, record: Mapping[str, Any], *, name: str) -> None:
    """Write the page about `record` (content of a results file; predictions must have been saved) atomically.

    Args:
        name: what the system is called.

    Raises:
        UserError: no saved predictions, unreadable pictures, or a path that can't be written.
    """
    write_report(path, evaluation_report(record, name=name))


def evaluation_report(record: Mapping[str, Any], *, name: str) -> Report:
    """See `write_evaluation_report`."""
    figures, errors = record["figures"], record.get("errors")
    summary = f"{record['num_images']} images, {len(record['class_names'])} classes: mIoU {figures['mIoU']:.1f}\u00a0%"
    if figures.get("mIoU-unseen") is not None:
        summary += f", on classes never trained on {figures['mIoU-unseen']:.1f}\u00a0%"
    if figures.get("PQ") is not None:
        summary += f"; panoptic quality {figures['PQ']:.1f}\u00a0%"
    if errors:
        part = 100 * errors["classification-error"] / errors["error"] if errors["error"] else 0.0
        summary += f". Of the wrong pixels {part:.0f}\u00a0% have the wrong name, the others the wrong shape"
    pictures = pick_images(record["images"])
    return Report(
        title=f"{name} on {record['dataset']}",
        summary=f"{summary}.",
        systems=[SystemResult.from_record(name, record)],
        class_names=record["class_names"],
        unseen=record["unseen_classes"],
        examples=[_example(title, file_name, record, name) for title, file_name in pictures.items()],
        analysis=error_analysis(record, name=name),
        confusions=confusion_groups(record),
        config=record["config"] or "",
        environment=_environment(record),
    )


def error_analysis(record: Mapping[str, Any], *, name: str) -> ErrorAnalysis | None:
    """The error split and the oracles, None where they were not measured (TEST.ORACLES)."""
    if not record.get("errors"):
        return None
    oracles = {_ORACLE_TITLES[key]: record["oracles"][key] for key in _ORACLE_TITLES if key in record["oracles"]}
    return ErrorAnalysis(
        mask=record["errors"]["mask-error"],
        classification=record["errors"]["classification-error"],
        oracles=[SystemResult(title, figures, []) for title, figures in {name: record["figures"], **oracles}.items()],
    )


def confusion_groups(record: Mapping[str, Any]) -> dict[str, Sequence[Confusion]]:
    """Title -> largest confusions: unseen classes taken for seen ones first, then all."""
    names, unseen, seen = record["class_names"], set(record["unseen_classes"]), set(record["seen_classes"])
    total = sum(record["label_pixels"])
    entries = sorted(record["confusions"], key=lambda entry: -entry["pixels"])
    across = [entry for entry in entries if entry["label"] in unseen and entry["prediction"] in seen]
    groups = {"Unseen classes taken for seen ones": across, "All classes": entries}
    return {
        title: [
            Confusion(
                label=names[entry["label"]],
                prediction=names[entry["prediction"]],
                share=100 * entry["share"],
                area=100 * entry["pixels"] / total,
                unseen=(entry["label"] in unseen, entry["prediction"] in unseen),
            )
            for entry in group[:_SHOWN_CONFUSIONS]
        ]
        for title, group in groups.items()
        if group
    }


def _example(title: str, file_name: str, record: Mapping[str, Any], name: str) -> Example:
    example = make_example(title, file_name, {name: record})
    entry = next(image for image in record["images"] if image["file_name"] == file_name)
    label = read_label_map(entry["sem_seg_file_name"])
    prediction = read_label_map(entry["prediction"])
    panel = error_picture(read_rgb(file_name), prediction, label, label != record["ignore_label"])
    return Example(example.title, example.caption, [*example.panels, ("errors", panel)], example.classes)


def error_picture(image: np.ndarray, prediction: np.ndarray, label: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The picture in pale grey, wrong pixels in the colour of their kind of error (`twostage.evaluation.oracles`).

    Args:
        image: uint8 RGB `[H, W, 3]`.
        prediction, label: `[H, W]` classes.
        valid: bool `[H, W]`, where the label is a class; other pixels are white.
    """
    grey = image.mean(axis=2, keepdims=True).astype(np.float32)
    picture = np.repeat(np.rint(150 + grey * 0.35).astype(np.uint8), 3, axis=2)
    wrong = (prediction != label) & valid
    repaired = renamed(prediction, label, valid) == label
    picture[wrong & repaired] = CLASSIFICATION_COLOR
    picture[wrong & ~repaired] = MASK_COLOR
    picture[~valid] = 255
    return enlarged(picture, label)[0]


def _environment(record: Mapping[str, Any]) -> dict[str, str]:
    memory = record["memory"]
    gpu = f", {memory['peak_gpu_mib']:.0f} MiB on the GPU" if memory["peak_gpu_mib"] else ""
    shown = {
        "evaluated on": f"{record['dataset']}, {record['num_images']} images",
        "skipped": f"{len(record['skipped'])} images" if record["skipped"] else "",
        "took": f"{record['seconds_of_images']:.1f} s for all images, in {record['processes']} process(es)",
        "peak memory": f"{memory['peak_rss_mib']:.0f} MiB{gpu}",
        "weights (sha256)": record.get("weights_sha256") or "",
        "config (sha256)": record["config_sha256"] or "",
        "class list (sha256)": record["class_names_sha256"],
        **record["versions"],
    }
    return {key: str(value) for key, value in shown.items() if value}

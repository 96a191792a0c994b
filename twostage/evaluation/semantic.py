"""The evaluator of label maps: memory does not grow with classes x height x width.

Reads what a system predicts (`sem_seg_labels [H, W]`, else the argmax of `sem_seg [C, H, W]`), compares it with the label
file on the device the prediction lives on, and keeps of an image only what its measures count.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from twostage.data.catalogue import DatasetInfo
from twostage.data.labels import write_label_map
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.journal import Journal
from twostage.evaluation.label_files import LabelFiles
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure, PairMeasure, add_all
from twostage.evaluation.metrics import image_miou
from twostage.evaluation.prediction_files import PredictionFiles
from twostage.evaluation.report import ImageResult, Report, read_report, with_nan
from twostage.evaluation.results import peak_memory, text_hash
from twostage.files import content_sha256

logger = logging.getLogger(__name__)


class SemanticSegmentationEvaluator(DatasetEvaluator):
    """Detectron2 evaluator of one dataset.

    Args:
        info: of the dataset.
        output_dir: where `results-<dataset>.json` and `.md` go ("": nowhere).
        save_predictions: also write the label maps as PNG under `<output_dir>/predictions-<dataset>/`, 16 bit where
            an index is above 255.
        measures: further measures besides the confusion matrix.
        skip_broken: leave out images whose label file is broken, and list them, instead of stopping.
        config_text: the config as yaml, for the results file.

    Raises (from `process`):
        UserError: label values outside the class list, sizes that differ, unreadable or missing labels.
    """

    def __init__(
        self,
        info: DatasetInfo,
        *,
        output_dir: str | Path = "",
        save_predictions: bool = False,
        measures: Sequence[type[Measure]] = (),
        skip_broken: bool = False,
        config_text: str = "",
    ) -> None:
        self.dataset = EvaluatedDataset.of(info)
        self._output_dir = Path(output_dir) if output_dir else None
        self._config_text = config_text
        self._skip_broken = skip_broken
        self._measure_types: tuple[type[Measure], ...] = (PairMeasure, *measures)
        self._predictions: PredictionFiles | None = None
        if save_predictions:
            if self._output_dir is None:
                raise UserError(f"predictions on '{info.name}' can't be saved without a folder; set OUTPUT_DIR")
            self._predictions = PredictionFiles(info, self._output_dir / f"predictions-{info.name}")
        self._label_files = LabelFiles(info)
        self._journal: Journal | None = None
        self._subject: dict[str, Any] = {}
        self._finished: dict[str, dict[str, Any]] = {}
        self.reset()

    def begin(self, subject: Mapping[str, Any], *, resume: bool) -> frozenset[str] | None:
        """Keep a journal of finished images in the output folder from now on; every process calls this.

        Args:
            subject: hashes that say what is evaluated (`weights_sha256`, ...); also go into the results file.
            resume: count what a stopped evaluation of the same subject finished.

        Returns:
            `file_name` of the images that need not be predicted again; None where nothing is left to do at all, because a
            finished evaluation of the same subject is there (`finished_results`).

        Raises:
            UserError: the journal is of another subject.
        """
        self._subject = {
            **subject,
            "class_names_sha256": text_hash("\n".join(self.dataset.class_names)),
            "prompts_sha256": text_hash("\n".join(self.dataset.prompt_names)),
            "measures": [measure.name for measure in self._measure_types],
            "predictions": self._predictions is not None,
        }
        if self._output_dir is None:
            return frozenset()
        folder = self._output_dir / f"partial-{self.dataset.name}"
        self._journal = Journal(folder, subject=self._subject, rank=comm.get_rank())
        if resume and self.finished_results() is not None:
            return None
        if resume:
            self._finished = self._unchanged(self._journal.read())
        # Nobody writes before all have read, or before the old files are gone.
        comm.synchronize()
        if not resume and comm.is_main_process():
            self._journal.clear()
        comm.synchronize()
        return frozenset(self._finished)

    def finished_results(self) -> OrderedDict[str, OrderedDict[str, float]] | None:
        """What `evaluate` returned in an earlier run of the same subject, from its results file; None without one."""
        assert self._output_dir is not None
        path = self._output_dir / f"results-{self.dataset.name}.json"
        record = read_report(path, self._subject)
        if record is None:
            return None
        listed = {entry["file_name"]: entry for entry in (*record["images"], *record["skipped"])}
        here = {str(entry["file_name"]) for entry in self.dataset.info.records()}
        if listed.keys() != here or len(self._unchanged(listed)) < len(listed):
            logger.warning(
                "%s holds results of other pictures or labels; '%s' is evaluated anew", path, self.dataset.name
            )
            return None
        return OrderedDict((task, OrderedDict(with_nan(values))) for task, values in record["results"].items())

    def _unchanged(self, entries: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Those `entries` of earlier runs, by `file_name`, whose picture and labels are what they were."""
        listed = {str(record["file_name"]) for record in self.dataset.info.records()}
        kept = {}
        for name, entry in entries.items():
            state = entry.get("image", entry)
            if name in listed and state.get("files_sha256") == content_sha256(state.get("files", ())):
                kept[name] = entry
        if len(kept) < len(entries):
            logger.warning(
                "%d of %d finished images of '%s' have changed on disk and are evaluated again",
                len(entries) - len(kept),
                len(entries),
                self.dataset.name,
            )
        return kept

    def reset(self) -> None:
        """Forget all images but those of the evaluation that is continued."""
        self.measures = [measure(self.dataset) for measure in self._measure_types]
        self.images: list[ImageResult] = []
        self.skipped: list[dict[str, Any]] = []
        if comm.is_main_process():
            for entry in self._finished.values():
                self._add(entry)
        self._started = self._last = time.perf_counter()

    def process(self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]) -> None:
        """Count a batch: Detectron2's input dicts (`file_name`, optionally `sem_seg_file_name`) and model outputs."""
        for record, output in zip(inputs, outputs, strict=True):
            prediction = self.dataset.to_classes(_predicted_labels(output))
            try:
                entry = self._entry(self._beside_label(record, output, prediction))
            except UserError as error:
                if not self._skip_broken:
                    raise
                self.skip(record, str(error))
                continue
            self._finish(entry)

    def skip(self, record: Mapping[str, Any], reason: str) -> None:
        """Leave an image out of the figures and list it under `skipped`."""
        logger.warning("skipped: %s", reason)
        with suppress(UserError):
            record = {**record, "sem_seg_file_name": self._label_files[record]}
        self._finish({"file_name": str(record["file_name"]), "skipped": reason, "counts": {}, **_state_of(record)})

    def _beside_label(
        self, record: Mapping[str, Any], output: Mapping[str, Any], prediction: torch.Tensor
    ) -> EvaluatedImage:
        label_file = self._label_files[record]
        label = torch.from_numpy(self.dataset.read_labels(label_file)).to(prediction.device)
        if label.shape != prediction.shape:
            raise UserError(
                f"label '{label_file}' is {_size(label)} but the prediction for '{record['file_name']}' is "
                f"{_size(prediction)} (width x height); image and label must have the same size"
            )
        valid = label != self.dataset.ignore_label
        outside = label[valid & ((label < 0) | (label >= self.dataset.num_classes))]
        if outside.numel():
            raise UserError(
                f"label '{label_file}' holds the value {int(outside[0])}, but '{self.dataset.name}' has "
                f"{self.dataset.num_classes} classes (0 to {self.dataset.num_classes - 1}) and ignores "
                f"{self.dataset.ignore_label}; check class list and label file"
            )
        return EvaluatedImage(
            record={**record, "sem_seg_file_name": label_file},
            output=output,
            prediction=prediction,
            label=label,
            valid=valid,
        )

    def _entry(self, image: EvaluatedImage) -> dict[str, Any]:
        counts: dict[str, Counts] = {measure.name: measure.of_image(image) for measure in self.measures}
        pairs = counts[PairMeasure.name]
        file_name = str(image.record["file_name"])
        result = ImageResult(
            file_name=file_name,
            sem_seg_file_name=str(image.record["sem_seg_file_name"]),
            prediction=self._save(file_name, image.prediction),
            miou=100 * image_miou(pairs["codes"], pairs["counts"], self.dataset.num_classes),
            seconds=round(time.perf_counter() - self._last, 4),
            **_state_of(image.record),
        )
        return {"file_name": file_name, "image": asdict(result), "counts": counts}

    def _finish(self, entry: dict[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(entry)
        self._add(entry)
        self._last = time.perf_counter()

    def _add(self, entry: Mapping[str, Any]) -> None:
        if "skipped" in entry:
            state = {key: entry[key] for key in ("files", "files_sha256")}
            self.skipped.append({"file_name": entry["file_name"], "reason": entry["skipped"], **state})
            return
        add_all(self.measures, entry["counts"])
        self.images.append(ImageResult(**entry["image"]))

    def _save(self, file_name: str, prediction: torch.Tensor) -> str | None:
        if self._predictions is None:
            return None
        path = self._predictions[file_name]
        write_label_map(path, prediction.cpu().numpy())
        return str(path)

    def evaluate(self) -> OrderedDict[str, OrderedDict[str, float]] | None:
        """Merge all processes and compute the figures (percent); None on other ranks than the first.

        Returns:
            `{"sem_seg": {"mIoU": ..., ...}}`, keys as in `SemanticFigures.as_percent`; other tasks of the measures beside it.
        """
        if self._journal is not None:
            self._journal.close()
        state = {measure.name: measure.total() for measure in self.measures}
        parts = comm.gather((state, self.images, self.skipped, peak_memory()), dst=0)
        if not comm.is_main_process():
            return None
        for counts, images, skipped, _ in parts[1:]:
            add_all(self.measures, counts)
            self.images += images
            self.skipped += skipped
        self.images.sort(key=lambda image: image.file_name)
        if not self.images:
            left_out = f" ({len(self.skipped)} left out: {self.skipped[0]['reason']})" if self.skipped else ""
            raise UserError(f"dataset '{self.dataset.name}' gave no image to evaluate; check its folder{left_out}")
        results: OrderedDict[str, OrderedDict[str, float]] = OrderedDict()
        for measure in self.measures:
            results.setdefault(measure.task, OrderedDict()).update(measure.figures())
        if self._output_dir:
            self._report(results, [memory for *_, memory in parts]).write(self._output_dir)
        if self._journal is not None:
            self._journal.clear()
        return results

    def _report(self, results: Mapping[str, Mapping[str, float]], memory: Sequence[Mapping[str, float]]) -> Report:
        measured: dict[str, Any] = {}
        for measure in self.measures:
            measured |= measure.record()
        return Report(
            dataset=self.dataset,
            results=results,
            images=self.images,
            skipped=self.skipped,
            subject=self._subject,
            config_text=self._config_text,
            seconds=time.perf_counter() - self._started,
            continued=len(self._finished),
            memory={key: max(part[key] for part in memory) for key in memory[0]},
            measured=measured,
        )


def _state_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The files that a record's counts depend on (picture, label map, panoptic labels), and what they hold."""
    files = [str(record[key]) for key in ("file_name", "sem_seg_file_name", "pan_seg_file_name") if record.get(key)]
    return {"files": files, "files_sha256": content_sha256(files)}


def _predicted_labels(output: Mapping[str, Any]) -> torch.Tensor:
    """`[H, W]` int64 from a model's output dict."""
    if "sem_seg_labels" in output:
        return output["sem_seg_labels"].long()
    return output["sem_seg"].argmax(dim=0)


def _size(labels: torch.Tensor) -> str:
    return f"{labels.shape[1]} x {labels.shape[0]}"

"""Single-query IoU: every class is asked for alone, as somebody does who knows no list of the classes.

After "IoU-single" of test-time contrastive concepts (Wysoczanska et al., arXiv 2407.05061), which segments each concept of a
picture for itself. Here, exactly: a picture is asked for each class that its labels show, one at a time, by the class's
names alone; with T pixels of the class that are claimed, G labelled and P claimed pixels, summed over these pictures
(ignored pixels count nowhere), IoU = T / (G + P - T), and mIoU-single is the mean over the classes that the labels show.
A class "background" is not asked for: it is what is left.

Without contrast words a single name takes the whole picture, and its IoU is the share of the pixels that it has there.

Legend: K classes, n classes that a picture shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from twostage.batch import output_sizes
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.label_files import LabelFiles
from twostage.evaluation.measures import Counts, EvaluatedImage, Measure
from twostage.evaluation.metrics import mean_over_present, subset_means
from twostage.segmenter import OpenVocabularySegmenter
from twostage.vocabulary import Vocabulary

# Of the model's outputs.
KEY = "single_queries"


class SingleQueries(nn.Module):
    """Wraps a system: its outputs, each with the answers to single queries added.

    These are under `KEY`: class -> bool `[H, W]`, the pixels that are claimed when the class is asked for alone.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        model: OpenVocabularySegmenter,
        dataset: EvaluatedDataset,
        others: Callable[[Vocabulary], tuple[str, ...]],
    ) -> None:
        """
        Args:
            network: gives the other outputs; the model, or what wraps it.
            model: what is asked.
            others: contrast words for what is asked.
        """
        super().__init__()
        self.network = network
        self.model = model
        self.dataset = dataset
        self._others = others
        self._label_files = LabelFiles(dataset.info)

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Costs a second encoding of each image and a decoding per class that it shows."""
        outputs = self.network(batch)
        return [{**o, KEY: self._answers(record)} for o, record in zip(outputs, batch, strict=True)]

    def _answers(self, record: Mapping[str, Any]) -> dict[int, Tensor]:
        batch = [dict(record)]
        encoded = self.model.encode(self.model.preprocess(batch))
        answers = {}
        for index in self.shown_classes(record):
            asked = self.query(index)
            labels = self.model.answer(encoded, asked, self._others(asked)).label_maps(output_sizes(batch))[0]
            answers[index] = labels >= 0
        return answers

    def query(self, index: int) -> Vocabulary:
        """The names of one class: one, or all prompts that count as it."""
        names = self.dataset.prompt_names
        table = self.dataset.prompt_to_class
        if table is None:
            return Vocabulary((names[index],))
        return Vocabulary(tuple(names[prompt] for prompt in (table == index).nonzero().flatten().tolist()))

    def shown_classes(self, record: Mapping[str, Any]) -> list[int]:
        """Ascending, the classes that a picture's labels show and that can be asked for."""
        present = np.unique(self.dataset.read_labels(self._label_files[record])).tolist()
        left_out = {self.dataset.ignore_label, self.dataset.background_class}
        return [index for index in present if index not in left_out]


class SingleQueryMeasure(Measure):
    """IoU of the answers to single queries; figures `mIoU-single`, with `-seen`, `-unseen` and `-harmonic`."""

    name = "single_query"

    def __init__(self, dataset: EvaluatedDataset) -> None:
        super().__init__(dataset)
        # Claimed pixels of the class, labelled pixels, claimed pixels.
        self._counts = np.zeros((3, dataset.num_classes), np.int64)

    def of_image(self, image: EvaluatedImage) -> Counts:
        if KEY not in image.output:
            raise UserError("the model can't be asked for single classes; set TEST.SINGLE_QUERY False")
        counts = np.zeros_like(self._counts)
        for index, claimed in image.output[KEY].items():
            of_class, claimed = image.label == index, claimed.to(image.label.device) & image.valid
            counts[:, index] = torch.stack([(claimed & of_class).sum(), of_class.sum(), claimed.sum()]).cpu().numpy()
        codes = np.flatnonzero(counts)
        return {"codes": codes, "counts": counts.reshape(-1)[codes]}

    def add(self, counts: Counts) -> None:
        # The codes of one `Counts` differ, so plain indexing adds each.
        self._counts.reshape(-1)[counts["codes"]] += counts["counts"]

    def total(self) -> Counts:
        codes = np.flatnonzero(self._counts)
        return {"codes": codes, "counts": self._counts.reshape(-1)[codes]}

    def figures(self) -> dict[str, float]:
        iou = self._iou()
        values = {"mIoU-single": mean_over_present(iou)}
        values |= subset_means("mIoU-single", iou, self.dataset.seen, self.dataset.unseen)
        return {key: 100 * value for key, value in values.items() if value == value}

    def record(self) -> dict[str, Any]:
        return {"single_query_iou_per_class": 100 * self._iou()}

    def _iou(self) -> np.ndarray:
        """`[K]`, NaN for classes that no label shows."""
        hit, labelled, claimed = self._counts.astype(np.float64)
        iou = np.full(len(hit), np.nan)
        shown = labelled > 0
        iou[shown] = hit[shown] / (labelled + claimed - hit)[shown]
        return iou

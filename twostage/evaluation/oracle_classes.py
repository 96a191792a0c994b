"""The oracle that tells a system which classes an image shows.

The system decodes the image a second time with the text of these classes alone, so that no other can be predicted; what
its own aggregation makes of fewer classes is part of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from twostage.batch import batch_vocabulary, output_sizes
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.label_files import LabelFiles
from twostage.segmenter import OpenVocabularySegmenter
from twostage.vocabulary import Vocabulary


class OracleClasses(nn.Module):
    """Wraps a system: its outputs, each with `sem_seg_labels_oracle` `[H, W]` (indices of the whole vocabulary) added."""

    def __init__(self, model: OpenVocabularySegmenter, dataset: EvaluatedDataset) -> None:
        super().__init__()
        self.model = model
        self.dataset = dataset
        self._label_files = LabelFiles(dataset.info)

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Costs a second encoding of each image."""
        outputs = self.model(batch)
        return [{**o, **self._oracle(record)} for o, record in zip(outputs, batch, strict=True)]

    def _oracle(self, record: Mapping[str, Any]) -> dict[str, Tensor]:
        prompts = self.shown_prompts(record)
        if not len(prompts):
            return {}
        batch = [dict(record)]
        prediction = self.model.decode(self.model.encode(self.model.preprocess(batch)), self._text(batch, prompts))
        labels = prediction.label_maps(output_sizes(batch))[0]
        return {"sem_seg_labels_oracle": prompts.to(labels.device)[labels]}

    def _text(self, batch: list[dict[str, Any]], prompts: Tensor) -> Any:
        """What the system makes of these words of the batch's vocabulary."""
        vocabulary = batch_vocabulary(batch)
        text = self.model.embed_vocabulary(vocabulary)
        if isinstance(text, Tensor):
            return text[prompts.to(text.device)]
        return self.model.embed_vocabulary(Vocabulary(tuple(vocabulary.names[i] for i in prompts.tolist())))

    def shown_prompts(self, record: Mapping[str, Any]) -> Tensor:
        """int64, ascending: the prompts that count as a class of the image's label or as the background."""
        labels = self.dataset.read_labels(self._label_files[record])
        present = torch.from_numpy(labels).unique()
        present = present[present != self.dataset.ignore_label]
        if len(present) and self.dataset.background_class is not None:
            # A system falls back to it where it recognises nothing; it cannot be taken away like a name.
            present = torch.cat([present, torch.tensor([self.dataset.background_class])]).unique()
        table = self.dataset.prompt_to_class
        if table is None:
            return present
        return torch.isin(table, present).nonzero()[:, 0]

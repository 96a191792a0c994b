"""What an evaluator has to know of a dataset, checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from twostage.data.catalogue import DatasetInfo
from twostage.data.labels import read_label_map
from twostage.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvaluatedDataset:
    """The facts of a dataset (the attributes are those of `DatasetInfo`) in the form in which they are asked for.

    Attributes:
        prompt_to_class: int64 `[P]`; None where the prompts are the classes.
        num_labelled: number of classes, the first ones, that labels hold.
    """

    info: DatasetInfo
    name: str
    class_names: tuple[str, ...]
    ignore_label: int
    prompt_names: tuple[str, ...]
    prompt_to_class: torch.Tensor | None
    background_class: int | None
    seen: tuple[int, ...]
    unseen: tuple[int, ...]
    things: tuple[int, ...]
    num_labelled: int

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def largest_label(self) -> int:
        """The largest value that a label file may hold."""
        return max(self.num_labelled - 1, self.ignore_label)

    def read_labels(self, path: str | Path) -> np.ndarray:
        """The label map `[H, W]` int64 at `path`. Raises UserError where it can't be one of this dataset."""
        return read_label_map(path, largest=self.largest_label, colors=self.info.colors)

    @classmethod
    def of(cls, info: DatasetInfo) -> EvaluatedDataset:
        """Take from `info` what matters, and check it.

        Raises:
            UserError: something is missing or contradicts another, a class is listed twice.
        """
        if not info.class_names:
            raise UserError(f"dataset '{info.name}' has no 'stuff_classes' in its metadata; is it a semantic dataset?")
        repeated = [entry for entry, times in Counter(info.class_names).items() if times > 1]
        if repeated:
            raise UserError(f"dataset '{info.name}' lists class '{repeated[0]}' more than once; rename one")
        found = cls(
            info=info,
            name=info.name,
            class_names=info.class_names,
            ignore_label=info.ignore_label,
            prompt_names=info.prompts,
            prompt_to_class=_prompt_table(info),
            background_class=info.background,
            seen=info.seen if info.zero_shot else (),
            unseen=info.unseen if info.zero_shot else (),
            things=info.things or (),
            num_labelled=info.num_classes,
        )
        found._check_indices()
        return found

    def _check_indices(self) -> None:
        background = () if self.background_class is None else (self.background_class,)
        groups = {
            "seen / unseen": self.seen + self.unseen,
            "thing": self.things,
            "background": background,
            "prompt_to_class": () if self.prompt_to_class is None else tuple(self.prompt_to_class.tolist()),
        }
        for what, indices in groups.items():
            outside = [c for c in indices if not 0 <= c < self.num_classes]
            if outside:
                raise UserError(
                    f"dataset '{self.name}': {what} class index {outside[0]} is outside its {self.num_classes} classes"
                )

    def to_classes(self, prediction: torch.Tensor) -> torch.Tensor:
        """Predicted prompts `[H, W]` as the classes they count as.

        Raises:
            UserError: the model predicts with another vocabulary.
        """
        if prediction.numel() and (prediction.min() < 0 or prediction.max() >= len(self.prompt_names)):
            raise UserError(
                f"the model predicts class {int(prediction.max())} but '{self.name}' has {len(self.prompt_names)} classes; "
                "evaluate with the dataset's own vocabulary"
            )
        if self.prompt_to_class is None:
            return prediction
        return self.prompt_to_class.to(prediction.device)[prediction]


def _prompt_table(info: DatasetInfo) -> torch.Tensor | None:
    if info.prompts == info.class_names:
        return None
    return torch.tensor(info.prompt_to_class or range(len(info.prompts)), dtype=torch.int64)

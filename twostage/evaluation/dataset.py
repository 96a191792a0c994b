"""What an evaluator has to know of a data set; the one place that reads it from Detectron2's metadata.

| metadata key       | meaning                                                                                              |
|--------------------|------------------------------------------------------------------------------------------------------|
| `stuff_classes`    | names of the K classes that the labels hold                                                          |
| `labelled_classes` | how many of them, the first ones, labels do hold; the others only compete (optional, all)            |
| `ignore_label`     | value of pixels that count nowhere                                                                   |
| `prompt_classes`   | the P names that the model is asked for, where they are not the K classes (optional)                 |
| `prompt_to_class`  | P indices: the class that each prompt counts as (with `prompt_classes`)                              |
| `background_class` | the class of pixels that no name fits; an oracle names it whatever is shown (optional)             |
| `seen_classes`, `unseen_classes` | indices of the split of open-vocabulary benchmarks (optional)                          |
| `thing_ids`        | indices of the classes that come as countable things, for panoptic quality (optional)                |
| `image_root`       | folder of the pictures; saved predictions keep the folders below it (optional)                       |

Folding PAS-20b's background (CAT-Seg, CVPR 2024) is `prompt_to_class`: 59 names are asked for, those from 20 on count as
class 20, "background". A background made of many words is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.data import MetadataCatalog

from twostage.errors import UserError


@dataclass(frozen=True)
class EvaluatedDataset:
    """The facts of the table above, checked."""

    name: str
    class_names: tuple[str, ...]
    ignore_label: int
    prompt_names: tuple[str, ...]
    prompt_to_class: torch.Tensor | None = None  # [P] int64; None: prompts are the classes
    background_class: int | None = None
    seen: tuple[int, ...] = ()
    unseen: tuple[int, ...] = ()
    things: tuple[int, ...] = ()
    image_root: str | None = None
    num_labelled: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def largest_label(self) -> int:
        """The largest value that a label file may hold."""
        return max((self.num_labelled or self.num_classes) - 1, self.ignore_label)

    @property
    def prompt_things(self) -> tuple[int, ...]:
        """Indices of the prompts that count as things."""
        if self.prompt_to_class is None:
            return self.things
        return tuple(i for i, c in enumerate(self.prompt_to_class.tolist()) if c in self.things)

    @classmethod
    def from_metadata(cls, name: str) -> EvaluatedDataset:
        """Read and check the metadata of a registered data set.

        Raises:
            UserError: a key is missing or contradicts another, a class is listed twice.
        """
        metadata = MetadataCatalog.get(name)
        names = tuple(str(entry) for entry in _required(metadata, name, "stuff_classes"))
        repeated = [entry for entry, times in Counter(names).items() if times > 1]
        if repeated:
            raise UserError(f"data set '{name}' lists class '{repeated[0]}' more than once; rename one")
        background = metadata.get("background_class", None)
        found = cls(
            name=name,
            class_names=names,
            ignore_label=int(_required(metadata, name, "ignore_label")),
            prompt_names=tuple(metadata.get("prompt_classes", None) or names),
            prompt_to_class=_prompt_table(metadata, name),
            background_class=None if background is None else int(background),
            seen=_indices(metadata, "seen_classes"),
            unseen=_indices(metadata, "unseen_classes"),
            things=_indices(metadata, "thing_ids"),
            image_root=metadata.get("image_root", None),
            num_labelled=metadata.get("labelled_classes", None),
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
                    f"data set '{self.name}': {what} class index {outside[0]} is outside its {self.num_classes} classes"
                )

    def to_classes(self, prediction: torch.Tensor) -> torch.Tensor:
        """Predicted prompts `[H, W]` as the classes they count as.

        Raises:
            UserError: the model predicts with another vocabulary.
        """
        if prediction.numel() and (prediction.min() < 0 or prediction.max() >= len(self.prompt_names)):
            raise UserError(
                f"the model predicts class {int(prediction.max())} but '{self.name}' has {len(self.prompt_names)} classes; "
                "evaluate with the data set's own vocabulary"
            )
        if self.prompt_to_class is None:
            return prediction
        return self.prompt_to_class.to(prediction.device)[prediction]


def _prompt_table(metadata: Any, name: str) -> torch.Tensor | None:
    prompts, table = metadata.get("prompt_classes", None), metadata.get("prompt_to_class", None)
    if prompts is None and table is None:
        return None
    if prompts is None or table is None or len(prompts) != len(table):
        raise UserError(f"data set '{name}' must give 'prompt_classes' and 'prompt_to_class' together and equally long")
    return torch.tensor([int(c) for c in table], dtype=torch.int64)


def _indices(metadata: Any, key: str) -> tuple[int, ...]:
    values: Sequence[int] = metadata.get(key, None) or ()
    return tuple(int(c) for c in values)


def _required(metadata: Any, name: str, key: str) -> Any:
    value = metadata.get(key, None)
    if value is None:
        raise UserError(f"data set '{name}' has no '{key}' in its metadata; is it a semantic data set?")
    return value

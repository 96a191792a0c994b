"""Published figures of a system: what cards hold and what tables of results put beside our own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

# How a published figure came about; only figures of one setting may be compared.
Setting = Literal["transfer", "training-free", "target images", "supervised"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """What is printed about one variant of a system, in percent.

    Attributes:
        system: its name in the source; differs from the card's where a card has several ("CAT-Seg v2", "SED-fast").
        variant: backbone and CLIP.
        train: dataset whose labels or images it was trained on; "" without training.
        miou: the papers' name of a benchmark ("A-150") -> mIoU.
        pq: likewise panoptic quality.
        setting: "transfer": trained on other datasets than the benchmark's; "training-free": frozen CLIP, or learnt from
            captions alone, with that literature's class lists and windows; "target images": trained on the benchmark's
            pictures, without labels of some or all classes; "supervised": trained on the benchmark's labels.
        rule: which mean mIoU is: "gt-present", "pred-or-gt", None where the source does not say
            (`twostage.evaluation.metrics`).
        source: where the figures stand.
        note: what to know before quoting them.
    """

    system: str
    variant: str
    train: str
    miou: Mapping[str, float]
    source: str
    pq: Mapping[str, float] = dataclasses.field(default_factory=dict)
    setting: Setting = "transfer"
    rule: Literal["gt-present", "pred-or-gt"] | None = None
    note: str = ""

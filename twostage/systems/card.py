"""What the rest of the world may know of a system without importing it: its card.

A card stands in `systems/<paradigm>/<name>/card.py` as `CARDS`, a tuple with one card per published system that the folder
hosts. Cards import keys and nothing else of their system, so that listing systems and reading a config build nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from twostage.checkpoint.signature import Signature
from twostage.keys import KeyGroup

Paradigm = Literal["two-stage", "one-stage", "training-free"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """A checkpoint that the authors published.

    Attributes:
        name: its file name, by which it can be asked for.
        source: address of the file, or of the page that links to it.
        config: our config that it fits.
        note: what it holds besides the system, what it was trained on.
    """

    name: str
    source: str
    config: str
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedFigures:
    """What is printed about one variant of a system, zero-shot, in percent.

    Attributes:
        variant: backbone and CLIP.
        train: dataset it was trained on.
        miou: the papers' name of a benchmark ("A-150") -> mIoU.
        pq: likewise panoptic quality.
        rule: which mean mIoU is: "gt-present", "pred-or-gt", None where the source does not say
            (`twostage.evaluation.metrics`).
        source: where the figures stand.
    """

    variant: str
    train: str
    miou: Mapping[str, float]
    source: str
    pq: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rule: Literal["gt-present", "pred-or-gt"] | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemCard:
    """One published system.

    Attributes:
        name: the name in papers.
        paradigm: which family it belongs to.
        title: of the paper.
        venue: where and when it appeared ("CVPR 2023").
        paper: address of the paper.
        code: address of the authors' code.
        code_licence, weights_licence: of the authors' code and checkpoints; ours is the repository's.
        meta_architecture: name in `META_ARCH_REGISTRY`.
        module: Python module that registers it there, imported when a model is built.
        keys: config keys of its own.
        configs: names under configs/, the published ones first.
        signatures: variant ("" where there is one) -> how its checkpoints are told by their tensor names.
        checkpoints: what the authors published.
        figures: what is printed about it.
        checked: what was compared with the authors' code, for the table of systems.
    """

    name: str
    paradigm: Paradigm
    title: str
    venue: str
    paper: str
    code: str
    code_licence: str
    weights_licence: str
    meta_architecture: str
    module: str
    keys: tuple[KeyGroup, ...] = ()
    configs: tuple[str, ...] = ()
    signatures: Mapping[str, Signature] = dataclasses.field(default_factory=dict)
    checkpoints: tuple[OfficialCheckpoint, ...] = ()
    figures: tuple[PublishedFigures, ...] = ()
    checked: str = ""

"""What the rest of the world may know of a system without importing it: its card.

A card stands in `systems/<paradigm>/<name>/card.py` as `CARDS`, a tuple with one card per published system that the folder
hosts. Cards import keys and nothing else of their system, so that listing systems and reading a config build nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from twostage.checkpoint.signature import Signature
from twostage.evaluation.figures import PublishedFigures
from twostage.keys import KeyGroup

__all__ = ["OfficialCheckpoint", "Paradigm", "PublishedFigures", "SystemCard"]

Paradigm = Literal["two-stage", "one-stage", "training-free"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfficialCheckpoint:
    """A checkpoint that the authors published.

    Attributes:
        name: by which it can be asked for: its file name, or where the source hides that, what its recipe is called.
        source: address of the file where the authors give one, else of the page that leads to it.
        config: our config that it fits; "" where none of ours does.
        train: what it was trained on.
        also: further configs of ours that it fits.
        by_hand: whether `source` is a page that only a person can follow, so that nothing can download the file.
        sha256: how the file's sha256 begins, where the authors say so.
        size: of the file in bytes, None where nobody says.
        note: what it holds besides the system, and what to know before using it.
    """

    name: str
    source: str
    config: str
    train: str
    also: tuple[str, ...] = ()
    by_hand: bool = False
    sha256: str = ""
    size: int | None = None
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
        code_licence, weights_licence: of the authors' code and checkpoints, "" where they state none; ours is the
            repository's.
        meta_architecture: name in `META_ARCH_REGISTRY`.
        module: Python module that registers it there, imported when a model is built.
        keys: config keys of its own.
        configs: names under configs/, the published ones first.
        config_package: Python package in whose folder `configs` are; "" for our configs/.
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
    config_package: str = ""
    signatures: Mapping[str, Signature] = dataclasses.field(default_factory=dict)
    checkpoints: tuple[OfficialCheckpoint, ...] = ()
    figures: tuple[PublishedFigures, ...] = ()
    checked: str = ""

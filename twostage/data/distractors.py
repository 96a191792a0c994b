"""Distractors: names that no label holds and that compete with a dataset's own in evaluation.

An open vocabulary is as good as what it can ignore: accuracy and cost are measured again with hundreds or thousands of
names of things that are not there. A pixel called by one of them is wrong; under the rule of classes that occur in the
labels they have no IoU of their own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from twostage.data.catalogue.info import DatasetInfo
from twostage.data.toybox.words import distractors as toybox_distractors
from twostage.errors import UserError
from twostage.words import class_name, read_name_file

_TOYBOX = "toybox:"


def read_distractors(source: str) -> tuple[str, ...]:
    """Names of `DATASETS.DISTRACTORS`: a vocabulary file, or "toybox:N" for N names made from toybox's words.

    Raises:
        UserError: no such file, no names in it, or N is no number of names that toybox can give.
    """
    if not source.startswith(_TOYBOX):
        if not Path(source).expanduser().is_file():
            raise UserError(
                f"DATASETS.DISTRACTORS is {source!r}; it must be '' (none), a file with one name per line, or 'toybox:N'"
            )
        names = tuple(class_name(entry, source=f"'{source}'") for entry in read_name_file(source))
        if not names:
            raise UserError(f"DATASETS.DISTRACTORS: '{source}' holds no names")
        return names
    count = source.removeprefix(_TOYBOX)
    if not count.isdigit() or int(count) < 1:
        raise UserError(f"DATASETS.DISTRACTORS is {source!r}; after 'toybox:' comes a whole number of 1 or more")
    return toybox_distractors(int(count))


def with_distractors(info: DatasetInfo, names: tuple[str, ...]) -> DatasetInfo:
    """`info` with `names` as further classes and prompts; names that it already has are left out."""
    own = {name for listed in (*info.class_names, *info.prompts) for name in (listed, *listed.split(", "))}
    extra = tuple(name for name in names if name not in own)
    known = len(info.class_names)
    table = info.prompt_to_class or tuple(range(len(info.prompts)))
    return dataclasses.replace(
        info,
        class_names=info.class_names + extra,
        prompts=info.prompts + extra,
        prompt_to_class=table + tuple(range(known, known + len(extra))),
        distractors=len(extra),
    )

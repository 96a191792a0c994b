"""Blocks of classes: read again or for the last time, held or made, some of them chosen."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from twostage.systems.one_stage.cost_aggregation.blocks import ChosenBlocks, ClassBlocks, HeldBlocks, MadeBlocks, held

WHOLE = torch.arange(11.0).view(1, 11, 1)


def _given() -> HeldBlocks:
    return HeldBlocks(WHOLE.split(4, dim=1))


def _joined(blocks: ClassBlocks) -> Tensor:
    return torch.cat(list(blocks), dim=1)


def test_made_blocks_are_made_for_every_reader() -> None:
    made: list[int] = []

    def make(block: Tensor, position: int) -> Tensor:
        made.append(position)
        return 2 * block

    blocks = MadeBlocks(_given(), make)
    assert len(blocks) == 3 and torch.equal(_joined(blocks), 2 * WHOLE) and torch.equal(_joined(blocks), 2 * WHOLE)
    assert made == [0, 1, 2, 0, 1, 2]
    kept = held(blocks, values=11)
    assert torch.equal(_joined(kept), 2 * WHOLE) and torch.equal(_joined(kept), 2 * WHOLE) and made[6:] == [0, 1, 2]


def test_nothing_is_held_of_what_was_taken() -> None:
    source = _given()
    taken = MadeBlocks(source, lambda block, _: block + 1).taken()
    first = next(taken)
    seen = weakref.ref(first)
    del first
    next(taken)
    assert seen() is None and len(source) == 1


@pytest.mark.parametrize("size", [1, 3, 4, 20])
@pytest.mark.parametrize("classes", [[0], [3, 4, 10], [2, 3, 5, 6, 7, 8], list(range(11))])
def test_chosen_classes_come_in_full_blocks(classes: list[int], size: int) -> None:
    blocks = ChosenBlocks(_given(), torch.tensor(classes), size)
    parts = list(blocks)
    assert len(parts) == len(blocks) and {part.shape[1] for part in parts[:-1]} <= {size}
    assert torch.equal(torch.cat(parts, dim=1), WHOLE[:, classes])
    assert all(part.untyped_storage().nbytes() <= 4 * (size + 4) for part in parts[:-1])

"""One set of weights for both sides: seeded under official names, through the table that reads published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from conformance.seeded import seeded_state
from twostage.checkpoint.renaming import CheckpointTable, check_complete
from twostage.errors import UserError

# Names that a message lists.
_SHOWN = 10


def seed_weights(model: nn.Module, table: CheckpointTable) -> dict[str, Tensor]:
    """Give our `model` the seeded weights of reference cases; returns them under official names.

    Fresh ones would not do: parts of a network that start at nothing (layer scales of 1e-6) could differ unseen.
    """
    official = seeded_state(table.to_official(model.state_dict()), seed=0)
    ours = table.to_ours(official, source="seeded weights")
    check_complete(ours, model.state_dict(), fresh=table.fresh, source="seeded weights", model=type(model).__name__)
    model.load_state_dict(ours, strict=False)
    return official


def copy_weights(official: Mapping[str, Tensor], theirs: nn.Module, *, constants: Iterable[str]) -> None:
    """Fill `theirs` with `official`.

    Args:
        constants: patterns of whole names of theirs that are made from their settings.

    Raises:
        UserError: a tensor of either side has none on the other, or one of another shape; all are counted, ten are named.
    """
    patterns = list(constants)
    wanted = theirs.state_dict()
    left = {
        "theirs that ours lacks": [
            name for name in wanted if name not in official and not any(re.fullmatch(p, name) for p in patterns)
        ],
        "ours that theirs lacks": [name for name in official if name not in wanted],
        "of another shape": [
            name for name in official if name in wanted and official[name].shape != wanted[name].shape
        ],
    }
    if any(left.values()):
        told = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"
            for what, names in left.items()
            if names
        )
        raise UserError(f"the weights do not fit the authors' {type(theirs).__name__}; compare the settings: {told}")
    # In place of their own, so that what they note beside the tensors (versions of a layout) is kept.
    wanted.update(official)
    theirs.load_state_dict(wanted)

"""How the checkpoints of one system are told from all others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Signature:
    """What the tensor names of a system's official checkpoints have, and those of others have not.

    Attributes:
        prefixes: a name begins with each of these.
        absent: no name begins with any of these.
        configs: our configs that take such a checkpoint; () where all of the card's do.
    """

    prefixes: tuple[str, ...]
    absent: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()

    def matches(self, names: Iterable[str]) -> bool:
        """Whether `names` are those of such a checkpoint.

        >>> Signature(("visual.",), absent=("backbone.",)).matches(["visual.proj", "logit_scale"])
        True
        """
        names = list(names)
        return all(any(name.startswith(prefix) for name in names) for prefix in self.prefixes) and not any(
            name.startswith(self.absent) for name in names
        )

"""What a mask generator's decoder says after one of its layers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MaskedQueries(NamedTuple):
    """Normalised queries `[B, Q, C]` and their mask logits `[B, Q, h, w]`, on the grid of stride 4."""

    queries: Tensor
    mask_logits: Tensor

"""Matching parameters by the ends of their names, for backbones that were trained outside of a larger model."""

from __future__ import annotations

import logging

from torch import Tensor

logger = logging.getLogger(__name__)


def match_by_suffix(model_state: dict[str, Tensor], checkpoint_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint with its keys renamed to those of the model that end in them.

    "conv1.weight" matches "backbone.conv1.weight"; of several, the longest key of the checkpoint wins. Keys that match
    nothing stay as they are; a match of another shape is dropped with a warning.

    Raises:
        ValueError: a key of the checkpoint matches two of the model's.
    """
    targets: dict[str, str] = {}
    for name, value in model_state.items():
        source = _longest_suffix(name, checkpoint_state)
        if source is None:
            continue
        shape = tuple(checkpoint_state[source].shape)
        if shape != tuple(value.shape):
            logger.warning(
                "Shape of %s in checkpoint is %s, while shape of %s in model is %s.",
                source,
                shape,
                name,
                tuple(value.shape),
            )
            logger.warning("%s will not be loaded. Please double check and see if this is desired.", source)
            continue
        if source in targets:
            raise ValueError(f"{source} of the checkpoint matches both {targets[source]} and {name} of the model")
        targets[source] = name
    if not targets:
        logger.warning("No weights in checkpoint matched with model.")
        return checkpoint_state
    logger.info("Matched %d of the checkpoint's %d parameters by name", len(targets), len(checkpoint_state))
    return {targets.get(source, source): value for source, value in checkpoint_state.items()}


def _longest_suffix(name: str, candidates: dict[str, Tensor]) -> str | None:
    """The longest of `name`, `name` without its first part, ... that is a candidate."""
    while name not in candidates:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name

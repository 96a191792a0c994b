"""Makes `tiny` (a two-layer system on a few small images) importable, here and in the processes tests start."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def own_loggers() -> Iterator[None]:
    """A run sets up loggers with handlers that don't propagate; afterwards they are as they were."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "twostage")]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (propagate, level, handlers) in zip(loggers, before, strict=True):
        logger.propagate, logger.handlers = propagate, handlers
        logger.setLevel(level)

"""Shared fixtures: a tiny random CLIP, the folder of reference cases, datasets in a temporary place."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before detectron2 is imported anywhere: twostage makes torchvision importable.
import twostage  # noqa: F401  isort: skip
import open_clip
import torch
from conformance.running import REFERENCE_THREADS

from twostage.own_detectron2 import is_own

ROOT = Path(__file__).parents[1]
COPIES = Path(__file__).with_name("conformance") / "cases"
REFERENCE = ROOT.parent / "shared" / "reference"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that hold for the other Detectron2 only."""
    own = is_own()
    for item in items:
        if own and item.get_closest_marker("upstream_detectron2"):
            item.add_marker(pytest.mark.skip(reason="holds for upstream Detectron2 only"))
        if not own and item.get_closest_marker("own_detectron2"):
            item.add_marker(pytest.mark.skip(reason="holds for third_party/detectron2 only"))


@pytest.fixture(scope="session", autouse=True)
def _private_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's text cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C reaches tests and their children, also where the suite was started in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Reference:
    """Reference files: the copies in the repository, then those beside it (the big ones).

    `reference / "san" / "keys-base.json"` is a file; without it on this machine the test is skipped.
    """

    def __init__(self, *places: Path) -> None:
        self._places = places

    def __truediv__(self, name: str) -> Path | Reference:
        places = [place / name for place in self._places]
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            return found
        if Path(name).suffix:
            pytest.skip(f"{places[-1]} is not on this machine")
        return Reference(*places)

    def glob(self, pattern: str) -> list[Path]:
        """Files that match, each once."""
        found = {str(path.relative_to(place)): path for place in reversed(self._places) for path in place.glob(pattern)}
        return [found[name] for name in sorted(found)]


@pytest.fixture
def reference() -> Iterator[Reference]:
    """The files of the reference cases; compared on one thread, as by the tool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(REFERENCE_THREADS[0])
    yield Reference(COPIES, REFERENCE)
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_clip() -> open_clip.CLIP:
    """A random CLIP: 4 image blocks of width 64 with 2 heads on 32 px in patches of 8, embedding size 24."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 32, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=True,
    )
    # Away from the symmetric start, so that biases and norms matter.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """A run sets up loggers with handlers that don't propagate; after each test they are as in a fresh process.

    What one test left would be seen by the next of its worker: pytest adds its handler to each logger that doesn't propagate.
    """
    yield
    for name in ("detectron2", "fvcore", "twostage"):
        logger = logging.getLogger(name)
        logger.propagate, logger.handlers = True, []
        logger.setLevel(logging.NOTSET)

"""A store of its own for each test, and a server that it can download from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from weights.server import Server, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TWOSTAGE_HOME, empty."""
    monkeypatch.setenv("TWOSTAGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TWOSTAGE_OFFLINE", raising=False)
    # A proxy of the machine must not come between the tests and their server.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """Serves 300,000 bytes."""
    with serving() as running:
        running.content = bytes(i * i % 251 for i in range(300_000))
        yield running

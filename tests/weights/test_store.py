"""One store for all processes: what it keeps stays what it is, and nobody writes into another's download."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from twostage.errors import UserError
from twostage.machine import home_folder
from twostage.weights.address import parse_address
from twostage.weights.find import first_published
from twostage.weights.record import record_file
from twostage.weights.store import fetch, place_of
from weights.server import Server
from weights.test_transfer import get

FETCH = """
import os, sys, time
from twostage.weights.address import parse_address
from twostage.weights.store import fetch
children = []
for _ in range(8):
    if (child := os.fork()) == 0:
        path = fetch(parse_address(sys.argv[1]))
        os._exit(0 if path.read_bytes() == open(sys.argv[2], "rb").read() else 1)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_eight_processes_download_once(server: Server, tmp_path: Path) -> None:
    server.pace = 0.4
    (tmp_path / "expected").write_bytes(server.content)
    command = [sys.executable, "-c", FETCH, f"{server.url}/file.pth", tmp_path / "expected"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [0] * 8
    assert len(server.requests) == 1


def test_a_changed_file_is_refused(server: Server) -> None:
    path = get(server)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"has changed since its first use \(sha256 \w{12}\.\.\., was \w{12}"):
        get(server)
    # The two ways out that the sentence names.
    record_file(path).unlink()
    assert get(server) == path
    path.unlink()
    assert get(server).read_bytes() == server.content


def test_a_file_put_by_hand_is_recorded_on_first_use(home: Path) -> None:
    address = parse_address("https://example.org/weights/a.pth")
    path = place_of(address)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"by hand")
    assert fetch(address) == path and record_file(path).is_file()
    path.write_bytes(b"by another hand")
    with pytest.raises(UserError, match="has changed"):
        fetch(address)


def test_a_file_put_by_hand_is_the_published_one(home: Path) -> None:
    address = parse_address("https://example.org/a.pth", sha256="0" * 64)
    place_of(address).parent.mkdir(parents=True)
    place_of(address).write_bytes(b"another")
    with pytest.raises(UserError, match=r"is not the published one \(sha256 .*published 000000000000"):
        fetch(address)


def test_offline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = get(server)
    monkeypatch.setenv("TWOSTAGE_OFFLINE", "1")
    assert get(server) == path
    with pytest.raises(
        UserError, match=rf"TWOSTAGE_OFFLINE forbids to download {server.url}/b\.pth; .* put it as '.*b\.pth'"
    ):
        get(server, "/b.pth")
    assert len(server.requests) == 1
    monkeypatch.setenv("TWOSTAGE_OFFLINE", "0")
    get(server, "/b.pth")


@pytest.fixture
def read_only(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a store that can't be written; its folder. Root may write everywhere, so that is taken away, too."""
    path = get(server)
    home.chmod(0o555)
    path.parent.chmod(0o555)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    if os.access(path.parent, os.W_OK):
        monkeypatch.setattr("twostage.weights.store.FileLock.acquire", refuse)
        monkeypatch.setattr(
            "twostage.weights.record.write_text", lambda *_: (_ for _ in ()).throw(UserError("can't write"))
        )
    return path


def test_a_read_only_store_serves_what_it_has(
    read_only: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    assert get(server) == read_only
    with pytest.raises(UserError, match=r"can't write '.*b\.pth': Permission denied; .*set TWOSTAGE_HOME to a folder"):
        get(server, "/folder/b.pth")
    read_only.parent.chmod(0o755)
    shutil.copy(read_only, read_only.with_name("c.pth"))
    read_only.parent.chmod(0o555)
    with caplog.at_level(logging.WARNING):
        assert get(server, "/folder/c.pth").name == "c.pth"
    assert "is not kept" in caplog.text
    read_only.parent.chmod(0o755)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWOSTAGE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert home_folder() == Path("/caches/twostage")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home_folder() == Path("~/.cache/twostage").expanduser()
    monkeypatch.setenv("TWOSTAGE_HOME", "~/here")
    assert home_folder() == Path("~/here").expanduser()


def test_the_first_that_there_is(server: Server) -> None:
    server.status = [404]
    addresses = [parse_address(f"{server.url}/{name}") for name in ("a.safetensors", "a.bin", "never")]
    assert first_published(addresses).name == "a.bin" and len(server.requests) == 2
    server.status = [404, 404]
    with pytest.raises(UserError, match=r"c\.safetensors"):
        first_published([parse_address(f"{server.url}/{name}") for name in ("c.safetensors", "c.bin")])
    server.status = [403]
    with pytest.raises(UserError, match="403"):
        first_published([parse_address(f"{server.url}/{name}") for name in ("d.safetensors", "d.bin")])


def test_a_lock_that_another_holds_is_waited_for(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    path = place_of(parse_address(f"{server.url}/folder/file.pth"))
    path.parent.mkdir(parents=True)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(path.with_name(".file.pth.lock")):
            held.set()
            leave.wait(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with caplog.at_level(logging.INFO):
        assert get(server) == path
    thread.join()
    assert "waiting for another process" in caplog.text

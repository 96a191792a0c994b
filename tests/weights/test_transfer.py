"""Downloads over connections that break, drip, lie or say no: what comes is whole and right, or it does not come."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import requests

from twostage.errors import UserError
from twostage.weights.address import parse_address
from twostage.weights.patience import Patience
from twostage.weights.record import record_file, sha256_of
from twostage.weights.store import NotPublishedError, fetch, place_of
from weights.server import Server

QUICK = Patience(connect=2, read=0.5, window=0.4, least=1 << 12, fruitful=1 << 15, tries=3, wait=0.01)


def get(server: Server, path: str = "/folder/file.pth", sha256: str = "") -> Path:
    return fetch(parse_address(f"{server.url}{path}", sha256=sha256), QUICK)


def ranges(server: Server) -> list[str | None]:
    return [asked for _, asked, _ in server.requests]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and path.suffix != ".lock")


def test_a_file_comes_whole_once_and_under_its_address(server: Server, home: Path) -> None:
    path = get(server)
    assert path == home / "weights" / f"127.0.0.1-{server.server_port}" / "folder" / "file.pth"
    assert path.read_bytes() == server.content and not hidden(path.parent)
    assert record_file(path).read_text() == f"{sha256_of(path)}  file.pth\n"
    assert get(server) == path and len(server.requests) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server) -> None:
    server.cuts = [100_000, 50_000]
    assert get(server).read_bytes() == server.content
    assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]


def test_and_so_does_a_later_process(server: Server) -> None:
    server.cuts = [90_000, 0, 0]
    with pytest.raises(UserError, match=r"ended with 210000 bytes to come, 3 times in a row; 90000 bytes are kept"):
        get(server)
    server.requests.clear()
    assert get(server).read_bytes() == server.content and ranges(server) == ["bytes=90000-"]


def test_all_but_the_name_was_there_already(server: Server) -> None:
    """A process that ended between the last byte and the rename."""
    part = place_of(parse_address(f"{server.url}/folder/file.pth")).with_name(".file.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(server.content)
    part.with_name(".file.pth.part.version").write_text('"1"')
    assert get(server).read_bytes() == server.content and ranges(server) == ["bytes=300000-"]


@pytest.mark.parametrize("change", ["another version", "no version", "no ranges"])
def test_what_is_kept_is_never_mixed_with_another_file(server: Server, change: str) -> None:
    server.cuts, server.tag = [100_000, 0, 0], "" if change == "no version" else '"1"'
    with pytest.raises(UserError, match="times in a row"):
        get(server)
    server.content = server.content[::-1]
    server.tag, server.ranges = '"2"', change != "no ranges"
    assert get(server).read_bytes() == server.content


def test_what_is_kept_is_longer_than_the_file(server: Server) -> None:
    server.cuts = [200_000, 0, 0]
    with pytest.raises(UserError, match="times in a row"):
        get(server)
    server.content = server.content[:1000]
    assert get(server).read_bytes() == server.content


def test_a_wrong_length_is_no_file(server: Server) -> None:
    server.announce, server.ranges = 300_001, False
    with pytest.raises(UserError, match=r"ended with 1 bytes to come"):
        get(server)
    assert not (place := place_of(parse_address(f"{server.url}/folder/file.pth"))).exists()
    assert not record_file(place).exists()


def test_a_wrong_hash_is_no_file(server: Server) -> None:
    with pytest.raises(UserError, match=r"has the sha256 \w{12}\.\.\., published is 0000"):
        get(server, sha256="0" * 64)
    place = place_of(parse_address(f"{server.url}/folder/file.pth"))
    assert [path.name for path in place.parent.iterdir() if path.suffix != ".lock"] == [".file.pth.part.version"]
    # What the address itself says, as OpenAI's do.
    with pytest.raises(UserError, match="published is abab"):
        get(server, path=f"/{'ab' * 32}/file.pt")


def test_not_there(server: Server) -> None:
    server.status = [404]
    with pytest.raises(NotPublishedError, match=rf"{server.url}/folder/file\.pth.*404.*put it as '.*file\.pth'"):
        get(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (503, 3), (429, 3), (403, 1), (400, 1)])
def test_other_refusals(server: Server, status: int, tries: int) -> None:
    server.status = [status] * 9
    with pytest.raises(UserError, match=str(status)):
        get(server)
    assert len(server.requests) == tries


def test_a_server_that_recovers(server: Server) -> None:
    server.status = [503, 503, 200]
    assert get(server).read_bytes() == server.content


def test_a_web_page_is_no_file(server: Server) -> None:
    server.pages["/folder/file.pth"] = "<html>please log in</html>"
    with pytest.raises(UserError, match="web page"):
        get(server)


def test_redirects_are_followed_and_end(server: Server) -> None:
    server.redirects["/folder/file.pth"] = (f"{server.url}/elsewhere", {})
    assert get(server).read_bytes() == server.content
    server.redirects["/round"] = (f"{server.url}/round", {})
    with pytest.raises(UserError, match="redirects"):
        get(server, "/round")


def test_a_drip_is_a_broken_connection(server: Server) -> None:
    """Bytes come all the time, so no time-out of the socket ever ends this."""
    server.drip = 0.02
    start = time.monotonic()
    with pytest.raises(UserError, match=r"the server sent \d+ bytes in \d s, 3 times in a row"):
        get(server)
    assert time.monotonic() - start < 5 and len(server.requests) == 3


def test_silence_is_a_broken_connection(server: Server) -> None:
    server.pace = 0.8
    with pytest.raises(UserError, match=r"went silent, 3 times in a row"):
        get(server)


def test_nobody_there(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(UserError, match=r"no connection: .*refused.*put it as '.*/file\.pth'"):
        fetch(parse_address(f"http://127.0.0.1:{port}/file.pth"), QUICK)
    assert time.monotonic() - start < 2


def test_a_full_disk(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twostage.weights.transfer._receive", full)
    with pytest.raises(UserError, match=r"can't write '.*file\.pth': No space left on device; make room"):
        get(server)
    monkeypatch.undo()


def test_an_authorization_stays_with_its_host(server: Server, tmp_path: Path) -> None:
    """The Hub's files lie at other hosts, which must not see the user's token."""
    from twostage.weights.transfer import download

    server.redirects["/file"] = (f"http://localhost:{server.server_port}/there", {})
    with requests.Session() as session:
        headers = {"Authorization": "Bearer secret"}
        download(session, f"{server.url}/file", tmp_path / "part", name="file", patience=QUICK, headers=headers)
    assert [sent for *_, sent in server.requests] == ["Bearer secret", None]

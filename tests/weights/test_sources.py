"""Google Drive and the Hub, played by a server of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from twostage.errors import UserError
from twostage.weights.address import parse_address
from twostage.weights.store import fetch
from weights.server import Server
from weights.test_transfer import QUICK

DRIVE = "https://drive.google.com/file/d/1aB_c-D/view"
# What Drive shows instead of a file that is too large to be scanned: a form, on one line, whose hidden fields lead on.
FIELDS = {"id": "1aB_c-D", "confirm": "t", "uuid": "u-1"}
WARNING = (
    "<html><body><p>Google Drive can't scan this file for viruses.</p>\n"
    '<form id="download-form" action="{action}" method="get">'
    + "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in FIELDS.items())
    + "</form></body></html>"
)
QUOTA = '<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr("twostage.weights.drive.START", f"{server.url}/uc")
    return server


def test_a_small_file_of_drive(drive: Server, home: Path) -> None:
    path = fetch(parse_address(DRIVE, name="small.pth"), QUICK)
    assert path == home / "weights" / "drive.google.com" / "1aB_c-D" / "small.pth"
    assert path.read_bytes() == drive.content
    assert {asked for asked, *_ in drive.requests} == {"/uc?id=1aB_c-D&export=download"}


def test_drives_confirmation_page(drive: Server) -> None:
    drive.pages["/uc"] = WARNING.format(action=f"{drive.url}/download")
    drive.cuts = [70_000]
    assert fetch(parse_address(DRIVE, name="large.pth"), QUICK).read_bytes() == drive.content
    assert [(asked, where) for asked, where, _ in drive.requests] == [
        ("/uc?id=1aB_c-D&export=download", None),
        ("/download?id=1aB_c-D&confirm=t&uuid=u-1", None),
        ("/download?id=1aB_c-D&confirm=t&uuid=u-1", "bytes=70000-"),
    ]


@pytest.mark.parametrize(
    ("page", "message"), [(QUOTA, "Too many users"), ("<html>sign in</html>", "Cannot retrieve the public link")]
)
def test_drive_without_a_way(drive: Server, page: str, message: str) -> None:
    drive.pages["/uc"] = page
    with pytest.raises(UserError, match=rf"can't download {DRIVE}: Drive shows a page without the file: {message}"):
        fetch(parse_address(DRIVE), QUICK)


def test_drive_has_no_such_file(drive: Server) -> None:
    drive.status = [404]
    with pytest.raises(UserError, match="Drive has no such file"):
        fetch(parse_address(DRIVE), QUICK)


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A mirror of the Hub."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return server


def test_a_file_of_the_hub(hub: Server, home: Path) -> None:
    path = fetch(parse_address("hf://Mendel192/san/san_vit_b_16.pth"), QUICK)
    assert path == home / "weights/huggingface.co/Mendel192/san/main/san_vit_b_16.pth"
    assert hub.requests == [("/Mendel192/san/resolve/main/san_vit_b_16.pth", None, "Bearer hf_secret")]


def test_the_hub_says_what_a_file_is(hub: Server) -> None:
    """On the way to a file of Git LFS the Hub tells its sha256."""
    from hashlib import sha256

    right = sha256(hub.content).hexdigest()
    for name, told in (("right", right), ("wrong", "f" * 64)):
        hub.redirects[f"/o/r/resolve/main/{name}"] = (f"{hub.url}/blob", {"X-Linked-Etag": f'"{told}"'})
    assert fetch(parse_address("hf://o/r/right"), QUICK).read_bytes() == hub.content
    with pytest.raises(UserError, match=r"published is ffffffffffff"):
        fetch(parse_address("hf://o/r/wrong"), QUICK)


def test_a_gated_file(hub: Server) -> None:
    hub.status = [401]
    with pytest.raises(UserError, match=r"401.*HF_TOKEN"):
        fetch(parse_address("hf://o/r/gated"), QUICK)

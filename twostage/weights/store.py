"""The one place on this machine where downloaded weights lie: `weights/` in `twostage.machine.home_folder()`.

A file is downloaded once, however many processes ask for it; it appears under its name only when it is whole; and from then on
`twostage.weights.record` sees that it stays what it is. Nothing here reads what it holds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from twostage.errors import UserError
from twostage.files import move_durably
from twostage.machine import home_folder
from twostage.weights.address import Address, drive_id, hub_file
from twostage.weights.drive import direct_url
from twostage.weights.hub import hub_headers, hub_url
from twostage.weights.patience import Patience
from twostage.weights.record import check, sha256_of, write_record
from twostage.weights.transfer import NotThereError, Received, TransferError, download, version_file

logger = logging.getLogger(__name__)

OFFLINE = "TWOSTAGE_OFFLINE"
PATIENCE = Patience()


class NotPublishedError(UserError):
    """The server has no such file."""


def store_folder() -> Path:
    """Where downloaded weights lie."""
    return home_folder() / "weights"


def place_of(address: Address) -> Path:
    """Where the file of `address` is kept, or is to be put by hand."""
    return store_folder() / address.place


def is_offline() -> bool:
    """Whether the user forbids the network, by TWOSTAGE_OFFLINE=1."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def fetch(address: Address, patience: Patience = PATIENCE) -> Path:
    """The file of `address` on this machine: from the store, else downloaded into it.

    Raises:
        UserError: it can't be had, with the address and the place to put it by hand; or it is not what it was.
    """
    path = place_of(address)
    if path.is_file():
        check(path, published=address.sha256)
        return path
    if address.kind == "page":
        raise UserError(f"'{path.name}' is behind a page for people: open {address.text} and put the file as '{path}'")
    if is_offline():
        raise UserError(f"{OFFLINE} forbids to download {address.text}; get it elsewhere and put it as '{path}'")
    with _locked(path):
        if not path.is_file():
            _download(address, path, patience)
            return path
    check(path, published=address.sha256)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the file `path`, whose folder is made; waits for the process that downloads it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process that downloads %s", path.name)
            lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _download(address: Address, path: Path, patience: Patience) -> None:
    """Download into a partial file, see that it is the right one, and give it its name."""
    part = path.with_name(f".{path.name}.part")
    logger.info("downloading %s to %s", address.text, path)
    try:
        with requests.Session() as session:
            received = _transfer(session, address, path.name, part, patience)
        found = sha256_of(part)
        for published in (address.sha256, received.sha256):
            if not found.startswith(published):
                part.unlink()
                raise TransferError(f"what came has the sha256 {found[:12]}..., published is {published[:12]}...")
        write_record(path, found)
        move_durably(part, path)
        version_file(part).unlink(missing_ok=True)
    except TransferError as error:
        kind = NotPublishedError if isinstance(error, NotThereError) else UserError
        raise kind(f"can't download {address.text}: {error}; get it elsewhere and put it as '{path}'") from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _transfer(session: requests.Session, address: Address, name: str, part: Path, patience: Patience) -> Received:
    url, headers = address.text, {}
    if address.kind == "hub":
        url, headers = hub_url(hub_file(address.text)), hub_headers()
    elif address.kind == "drive":
        url = direct_url(session, drive_id(address.text), patience)
    return download(session, url, part, name=name, patience=patience, headers=headers)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"can't write '{path}': {error.strerror or error}; make room, set TWOSTAGE_HOME to a folder that can be written, or "
        "have the file put there"
    )

"""One file over HTTP into a partial file, which a later try goes on with, in this process or in another."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import requests
from tqdm import tqdm
from urllib3.exceptions import ConnectTimeoutError, HTTPError, IncompleteRead, NewConnectionError, ReadTimeoutError

from twostage.weights.patience import Patience

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
# How the Hub tells what a file of Git LFS is, in the answer that redirects to where it lies.
_HUB_SHA256 = "X-Linked-Etag"


class TransferError(Exception):
    """A download that can't be had; `str(error)` is the reason, to be put into a sentence."""


class NotThereError(TransferError):
    """The server says that there is no such file."""


class _BrokenError(Exception):
    """A connection that ended too early, or was too slow: to be tried again."""


@dataclasses.dataclass(frozen=True)
class Received:
    """What the server said of a whole file: its sha256, "" where it didn't."""

    sha256: str


def download(
    session: requests.Session, url: str, part: Path, *, name: str, patience: Patience, headers: Mapping[str, str]
) -> Received:
    """Fill `part` with what `url` holds, going on with what is there already.

    Which version of the file that is stands beside it, in `<part>.version`: of another the server sends everything anew.

    Args:
        name: for the progress bar.
        headers: further ones, sent to the first host only (`requests` drops an authorization when a redirect leaves it).

    Raises:
        TransferError: nobody answers, an answer that is no file, or too many broken connections.
        OSError: `part` can't be written.
    """
    failures = 0
    with tqdm(unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while True:
            before = size_of(part)
            try:
                return _connect(session, url, part, bar, patience, headers)
            # The built-in two: what a socket raises while the body is read.
            except (requests.RequestException, HTTPError, _BrokenError, TimeoutError, ConnectionError) as error:
                if _is_final(error):
                    raise TransferError(reason_of(error)) from error
                failures = 1 if size_of(part) - before >= patience.fruitful else failures + 1
                if failures >= patience.tries:
                    kept = f"; {size_of(part)} bytes are kept and the next try goes on" if size_of(part) else ""
                    raise TransferError(f"{reason_of(error)}, {failures} times in a row{kept}") from error
                logger.info("%s: %s; going on from byte %d", name, reason_of(error), size_of(part))
                time.sleep(patience.wait * 2 ** (failures - 1))


def _connect(
    session: requests.Session, url: str, part: Path, bar: tqdm, patience: Patience, headers: Mapping[str, str]
) -> Received:
    """One connection: ask for what is missing and append it."""
    start, version = size_of(part), version_file(part)
    wanted = {"Accept-Encoding": "identity", **headers}
    if start and version.is_file():
        wanted |= {"Range": f"bytes={start}-", "If-Range": version.read_text(encoding="utf-8")}
    with session.get(url, headers=wanted, stream=True, timeout=(patience.connect, patience.read)) as answer:
        _check_status(answer)
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range") != f"bytes */{start}":
                part.unlink()
                raise _BrokenError("what is kept is longer than the file")
            return Received(_hub_sha256(answer))
        start, total = _begin(answer, start)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            # Before the first byte: what is kept has to say what it is a part of.
            _note_version(version, answer)
            bar.reset(total)
            bar.update(start)
            _receive(answer, file, bar, patience)
        if total is not None and size_of(part) != total:
            raise _BrokenError(f"the connection ended after {size_of(part)} of {total} bytes")
        return Received(_hub_sha256(answer))


def _check_status(answer: requests.Response) -> None:
    status = answer.status_code
    if status in (requests.codes.not_found, requests.codes.gone):
        raise NotThereError(f"the server has no such file ({status})")
    if status in (requests.codes.unauthorized, requests.codes.forbidden):
        raise TransferError(
            f"the server refuses it ({status}); where the Hub asks for a licence to be accepted, do that there "
            "and set HF_TOKEN"
        )
    if status in (requests.codes.request_timeout, requests.codes.too_many_requests) or status >= 500:
        raise _BrokenError(f"the server answers {status}")
    fine = (requests.codes.ok, requests.codes.partial_content, requests.codes.requested_range_not_satisfiable)
    if status not in fine:
        raise TransferError(f"the server answers {status}")
    if answer.headers.get("Content-Type", "").startswith("text/html") and status == requests.codes.ok:
        raise TransferError("the server answers with a web page, not with a file")


def _begin(answer: requests.Response, start: int) -> tuple[int, int | None]:
    """Where the answer's bytes begin in the file, and how many the whole file has (None: the server doesn't say)."""
    if answer.status_code == requests.codes.ok:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if not given or int(given[1]) != start:
        raise TransferError("the server sends another part than was asked for")
    return start, int(given[2])


def _receive(answer: requests.Response, file: BinaryIO, bar: tqdm, patience: Patience) -> None:
    """Write what comes, as it comes; `_BrokenError` where that is too slow."""
    since, brought = time.monotonic(), 0
    # Not `iter_content`: it waits for a whole chunk, which a dripping server never fills.
    while chunk := answer.raw.read1(_CHUNK):
        file.write(chunk)
        bar.update(len(chunk))
        brought += len(chunk)
        seconds = time.monotonic() - since
        if seconds > patience.window:
            if brought < patience.least:
                raise _BrokenError(f"the server sent {brought} bytes in {seconds:.0f} s")
            since, brought = time.monotonic(), 0


def _note_version(file: Path, answer: requests.Response) -> None:
    """Write down which version this is; no file where the server doesn't say, which makes the next try begin anew."""
    tag = answer.headers.get("ETag", "")
    # A weak tag may stand for other bytes.
    version = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
    if version:
        file.write_text(version, encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def _hub_sha256(answer: requests.Response) -> str:
    """What the Hub said of the file's content on the way to it, "" from other servers."""
    for step in (*answer.history, answer):
        tag = step.headers.get(_HUB_SHA256, "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            return tag
    return ""


def _is_final(error: BaseException) -> bool:
    """Whether there is no network, or nobody there: waiting a few seconds won't help."""
    if isinstance(error, requests.exceptions.SSLError | requests.exceptions.ProxyError | requests.TooManyRedirects):
        return True
    if not isinstance(error, requests.RequestException):
        return False
    cause = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(cause, NewConnectionError | ConnectTimeoutError) or isinstance(error, ValueError)


def reason_of(error: BaseException) -> str:
    """What went wrong with a connection, in a few words; urllib3 wraps it three times."""
    if _is_final(error) and not isinstance(error, ValueError):
        cause = getattr(error.args[0], "reason", error)
        return f"no connection: {str(cause).rpartition(': ')[2]}"
    if isinstance(error, TimeoutError | requests.Timeout | ReadTimeoutError):
        return "the server went silent"
    broken = error.args[-1] if error.args else None
    if isinstance(broken, IncompleteRead):
        return f"the connection ended with {broken.expected} bytes to come"
    return " ".join(str(error).split())


def version_file(part: Path) -> Path:
    """Where the version of what `part` is a part of is written down."""
    return part.with_name(f"{part.name}.version")


def size_of(path: Path) -> int:
    """In bytes; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0

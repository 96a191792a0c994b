"""What may stand where a weights file is asked for, taken apart: where it lies out there, and where it goes here.

Four kinds: a file of the Hugging Face Hub, a file of Google Drive, any other https address, and a page that only a person can
follow. Nothing here touches the network or the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from twostage.errors import UserError

Kind = Literal["hub", "drive", "https", "page"]

HUB_HOST = "huggingface.co"
DRIVE_HOST = "drive.google.com"
_SCHEMES = ("hf://", "https://", "http://")
# What the Hub calls its repositories, in addresses and in its API.
_REPOSITORY_KINDS = {"spaces": "space", "datasets": "dataset"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# OpenAI's files lie in a folder that is called what the file's sha256 is.
_SHA256_FOLDER = re.compile(r"/([0-9a-f]{64})/[^/]+$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """One published file.

    Attributes:
        text: as a person would write it, for messages.
        kind: how it is fetched.
        place: where it is kept, relative to the store's folder.
        sha256: what the publisher says of its content, or the beginning of that; "" where nobody says.
    """

    text: str
    kind: Kind
    place: PurePosixPath
    sha256: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file in a repository of the Hugging Face Hub; `repository` is "owner/name"."""

    repository: str
    file: str
    revision: str = "main"
    kind: Literal["model", "space", "dataset"] = "model"


def is_address(text: str) -> bool:
    """Whether `text` is meant as an address rather than as a file or a name.

    >>> is_address("hf://Mendel192/san/san_vit_b_16.pth"), is_address("san_vit_b_16.pth")
    (True, False)
    """
    return text.startswith(_SCHEMES)


def parse_address(text: str, *, name: str = "", sha256: str = "") -> Address:
    """`hf://owner/repo/file`, an address of the Hub's or Drive's web pages, or any other https address.

    >>> str(parse_address("hf://Mendel192/san/san_vit_b_16.pth").place)
    'huggingface.co/Mendel192/san/main/san_vit_b_16.pth'

    Args:
        name: the file's name, which addresses of Drive don't say; they may end in "#name" instead.
        sha256: see `Address`.

    Raises:
        UserError: no address of a file, or one that others could change on its way.
    """
    parts = urlsplit(text)
    if text.startswith("hf://") or parts.hostname == HUB_HOST:
        file = hub_file(text)
        folder = PurePosixPath(HUB_HOST, *([] if file.kind == "model" else [f"{file.kind}s"]))
        place = folder / file.repository / file.revision.replace("/", "-") / file.file
        return Address(text=text, kind="hub", place=_safe(place, text), sha256=sha256)
    if parts.hostname == DRIVE_HOST:
        place = PurePosixPath(DRIVE_HOST, drive_id(text), name or parts.fragment or "weights.pth")
        return Address(text=text, kind="drive", place=_safe(place, text), sha256=sha256)
    return Address(
        text=text, kind="https", place=_https_place(text), sha256=sha256 or "".join(_SHA256_FOLDER.findall(parts.path))
    )


def page_address(text: str, *, system: str, name: str) -> Address:
    """A page that leads to the file `name`; somebody has to follow it and put the file into its place."""
    folder = re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-")
    return Address(text=text, kind="page", place=PurePosixPath("by-hand", folder, name))


def hub_file(text: str) -> HubFile:
    """The parts of `hf://[spaces/|datasets/]owner/repo[@revision]/file`, or of the Hub's own address of the file.

    Raises:
        UserError: a part is missing.
    """
    shorthand = text.startswith("hf://")
    words = unquote(urlsplit(text).path if not shorthand else text.removeprefix("hf://")).strip("/").split("/")
    kind = _REPOSITORY_KINDS.get(words[0], "model")
    owner, repository, *rest = (words[1:] if kind != "model" else words) + [""] * 2
    rest = [word for word in rest if word]
    revision = "main"
    if shorthand and "@" in repository:
        repository, revision = repository.split("@", 1)
    elif not shorthand and len(rest) > 2 and rest[0] in ("resolve", "blob"):
        revision, rest = rest[1], rest[2:]
    elif not shorthand:
        rest = []
    if not (owner and repository and revision and rest):
        raise UserError(f"'{text}' names no file of the Hub; write hf://owner/repository/file")
    return HubFile(repository=f"{owner}/{repository}", file="/".join(rest), revision=revision, kind=kind)  # type: ignore[arg-type]


def drive_id(text: str) -> str:
    """The id in `https://drive.google.com/file/d/ID/view`, `.../uc?id=ID` or `.../open?id=ID`.

    Raises:
        UserError: a folder, or no id.
    """
    parts = urlsplit(text)
    found = re.fullmatch(r"/file/(?:u/\d+/)?d/([\w-]+)(?:/.*)?", parts.path)
    if found:
        return found[1]
    (identity,) = parse_qs(parts.query).get("id", [""])[:1]
    if not re.fullmatch(r"[\w-]+", identity):
        raise UserError(f"'{text}' names no file of Google Drive; write https://{DRIVE_HOST}/file/d/ID/view")
    return identity


def _https_place(text: str) -> PurePosixPath:
    parts = urlsplit(text)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise UserError(f"'{text}' can be changed by anybody on its way; give an https address")
    folder, _, name = unquote(parts.path).rpartition("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise UserError(f"'{text}' is no address of a file; it looks like https://host/folder/file.pth")
    if parts.query:
        # Other parameters, another file.
        folder = f"{folder}/{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}"
    host = parts.hostname if parts.port is None else f"{parts.hostname}-{parts.port}"
    return _safe(PurePosixPath(host, folder.strip("/"), name), text)


def _safe(place: PurePosixPath, text: str) -> PurePosixPath:
    """`place`, which must stay inside the store on every system."""
    for part in place.parts:
        if part in ("/", "..") or part.startswith(".") or re.search(r'[\x00-\x1f\\:*?"<>|]', part) or len(part) > 200:
            raise UserError(f"'{text}' has the part {part!r}, which can't be a file's name here; download it by hand")
    return place

"""A weights file, whatever it was asked for by: the one function behind every door."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from twostage.errors import UserError
from twostage.machine import user_path
from twostage.weights.address import Address, is_address, parse_address
from twostage.weights.names import OFFICIAL, address_of, find_published, near_published
from twostage.weights.store import NotPublishedError, fetch


def weights_file(text: str, *, key: str = "MODEL.WEIGHTS") -> Path:
    """The file that `text` stands for, downloaded where it has to be.

    Args:
        text: a file; `hf://owner/repository/file`; an https address, Drive's included; or the name of a checkpoint on a
            system's card. A file goes before a name.
        key: config key that `text` comes from, for messages.

    Raises:
        UserError: nothing is called so, or it can't be had (see `twostage.weights.store.fetch`).
    """
    if is_address(text):
        return fetch(readable(parse_address(text)))
    path = user_path(text)
    if path.exists():
        return path
    found = find_published(text)
    if found is not None:
        return fetch(readable(address_of(*found)))
    if text == OFFICIAL:
        raise UserError(
            f"{key} is 'official', which only MODEL.WEIGHTS of a published config can be; give a name or a file"
        )
    raise UserError(f"checkpoint '{text}' does not exist{near_published(text)}; check {key}")


def is_known(text: str) -> bool:
    """Whether `weights_file` would find something of this name, as far as this machine knows."""
    return is_address(text) or find_published(text) is not None or user_path(text).exists()


def check_named(text: str) -> None:
    """See at a run's start, before data are made, that `MODEL.WEIGHTS` names something; downloads nothing.

    Raises:
        UserError: as `weights_file`, where nothing is called so.
    """
    if text and not is_known(text):
        weights_file(text)


def first_published(addresses: Iterable[Address]) -> Path:
    """The first of several addresses of the same weights that there is; the others are not asked for.

    Raises:
        UserError: there is none of them, or one can't be had.
    """
    missing: NotPublishedError | None = None
    for address in addresses:
        try:
            return fetch(address)
        except NotPublishedError as error:
            missing = missing or error
    assert missing is not None, "no address given"
    raise missing


def readable(address: Address) -> Address:
    """The same address. Raises UserError where its file could not be read here, before it is downloaded for nothing."""
    if address.place.suffix == ".pkl":
        raise UserError(
            f"{address.text} is a pickle, which could run code when read, so it is not loaded; get it by `twostage weights "
            f"get {address.place.name}`, convert it to .safetensors where you trust it and name that file"
        )
    return address

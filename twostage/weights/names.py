"""Checkpoints by the names on the cards of the systems, and what "official" means for a config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

from twostage.errors import UserError, near_names
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.cards import all_cards
from twostage.weights.address import Address, page_address, parse_address

OFFICIAL = "official"


def published() -> Iterator[tuple[SystemCard, OfficialCheckpoint]]:
    """Every checkpoint on a card, with its card."""
    for card in all_cards():
        for checkpoint in card.checkpoints:
            yield card, checkpoint


def find_published(name: str) -> tuple[SystemCard, OfficialCheckpoint] | None:
    """The checkpoint that a card calls `name`; None where none does."""
    return next((found for found in published() if found[1].name == name), None)


def near_published(name: str) -> str:
    """A suffix for messages, see `near_names`."""
    return near_names(name, (checkpoint.name for _, checkpoint in published()))


def address_of(card: SystemCard, checkpoint: OfficialCheckpoint) -> Address:
    """Where a published checkpoint is."""
    if checkpoint.by_hand:
        return page_address(checkpoint.source, system=card.name, name=checkpoint.name)
    return parse_address(checkpoint.source, name=checkpoint.name, sha256=checkpoint.sha256)


def official_weights(config_file: str | Path) -> str:
    """What `MODEL.WEIGHTS official` stands for with a config: a checkpoint's name, or "" where CLIP's own weights are all.

    >>> official_weights("configs/san_vitb.yaml"), official_weights("configs/sclip_vitb.yaml")
    ('san_vit_b_16.pth', '')

    Raises:
        UserError: no card has the config, or its authors published no checkpoint for it.
    """
    card, config = _card_of(config_file)
    for checkpoint in card.checkpoints:
        if config in (checkpoint.config, *checkpoint.also):
            return checkpoint.name
    if card.paradigm == "training-free":
        return ""
    known = ", ".join(checkpoint.name for checkpoint in card.checkpoints) or "none"
    raise UserError(
        f"MODEL.WEIGHTS is 'official', but nothing was published for the config '{config}'; checkpoints of {card.name}: "
        f"{known}"
    )


def _card_of(config_file: str | Path) -> tuple[SystemCard, str]:
    """The card that lists a config file, and what it calls it."""
    words = PurePath(config_file).with_suffix("").parts
    fitting = [
        (card, config)
        for card in all_cards()
        for config in card.configs
        if words[-len(parts := PurePath(config).parts) :] == parts
    ]
    if not fitting:
        raise UserError(
            f"MODEL.WEIGHTS is 'official', but '{config_file}' is no published config; give a checkpoint's name, see "
            "`twostage weights list`"
        )
    # "toybox/san" before a "san" of the same words.
    return max(fitting, key=lambda found: len(PurePath(found[1]).parts))

"""All cards: those of our folders, and those that installed packages offer under the entry-point group `twostage.systems`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from twostage.errors import UserError
from twostage.systems.card import SystemCard

ENTRY_POINTS = "twostage.systems"


@functools.cache
def all_cards() -> tuple[SystemCard, ...]:
    """The cards of every system, ours first, by paradigm and name.

    Raises:
        UserError: an installed package offers something else than cards, or a name that is taken.
    """
    cards: list[SystemCard] = []
    for card in (*_own_cards(), *_installed_cards()):
        if any(card.name == other.name for other in cards):
            raise UserError(f"two systems are called {card.name!r}; uninstall one of the packages that bring them")
        cards.append(card)
    return tuple(cards)


def _own_cards() -> list[SystemCard]:
    cards: list[SystemCard] = []
    root = Path(__file__).parent
    for path in sorted(root.glob("*/*/card.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        cards += importlib.import_module(f"{__package__}.{module}").CARDS
    return cards


def _installed_cards() -> list[SystemCard]:
    cards: list[SystemCard] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            found = entry.load()
        except Exception as error:
            raise UserError(
                f"the installed system '{entry.name}' ({entry.value}) can't be loaded: {error}; update or uninstall it"
            ) from error
        given = [found] if isinstance(found, SystemCard) else found
        if not isinstance(given, Iterable) or not all(isinstance(card, SystemCard) for card in given):
            raise UserError(
                f"the installed system '{entry.name}' ({entry.value}) is no SystemCard and no tuple of them; update or "
                "uninstall it"
            )
        cards += given
    return cards


def card_of(meta_architecture: str) -> SystemCard | None:
    """The first card with this `MODEL.META_ARCHITECTURE`, None where no card has it."""
    return next((card for card in all_cards() if card.meta_architecture == meta_architecture), None)


def recognise_checkpoint(names: Iterable[str]) -> tuple[SystemCard, str] | None:
    """The card, and the variant in it, whose official checkpoints have such tensor names; None where no system's have."""
    names = list(names)
    for card in all_cards():
        for variant, signature in card.signatures.items():
            if signature.matches(names):
                return card, variant
    return None

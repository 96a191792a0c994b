"""All cards: those of our folders, and those that installed packages offer under the entry-point group `twostage.systems`."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from twostage.errors import UserError, near_names
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
        for other in cards:
            _check_apart(other, card)
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


def _check_apart(one: SystemCard, other: SystemCard) -> None:
    """UserError where two cards claim the same name, meta-architecture or config."""
    if one.name == other.name:
        raise UserError(f"two systems are called {one.name!r} ({one.module} and {other.module}); uninstall one of them")
    if one.meta_architecture == other.meta_architecture and one.module != other.module:
        raise UserError(
            f"{one.name} ({one.module}) and {other.name} ({other.module}) both have the MODEL.META_ARCHITECTURE "
            f"{one.meta_architecture!r}; uninstall one of them"
        )
    shared = set(one.configs) & set(other.configs)
    if shared:
        raise UserError(
            f"{one.name} ({one.module}) and {other.name} ({other.module}) both have a config {min(shared)!r}; uninstall one "
            "of them"
        )


def is_installed(card: SystemCard) -> bool:
    """Whether the card comes from somebody else's package."""
    return card.module.partition(".")[0] != __package__.partition(".")[0]


def cards_of(meta_architecture: str) -> tuple[SystemCard, ...]:
    """The cards with this `MODEL.META_ARCHITECTURE`; several where systems share a model, none where it is unknown."""
    return tuple(card for card in all_cards() if card.meta_architecture == meta_architecture)


def unknown_architecture(name: str) -> UserError:
    """What to raise for a `MODEL.META_ARCHITECTURE` that nobody has."""
    known = sorted({card.meta_architecture for card in all_cards()})
    by_name = {card.name.casefold(): card.meta_architecture for card in all_cards()}
    called = by_name.get(name.casefold())
    near = f" (did you mean {called!r}?)" if called else near_names(name, known)
    return UserError(f"MODEL.META_ARCHITECTURE is {name!r}{near}; there are: {', '.join(known)}")


def config_path(name: str) -> Path | None:
    """Path of a config that an installed package brings; None where none does.

    Raises:
        UserError: a card names the config, but its package has no such file.
    """
    for card in all_cards():
        if not card.config_package or name not in card.configs:
            continue
        spec = importlib.util.find_spec(card.config_package)
        folders = spec.submodule_search_locations or [] if spec else []
        for folder in folders:
            if (path := Path(folder) / f"{name}.yaml").is_file():
                return path
        raise UserError(
            f"config {name!r} of the installed system {card.name} is not in its package '{card.config_package}'; install it "
            "again"
        )
    return None


def recognise_checkpoint(names: Iterable[str]) -> tuple[SystemCard, str] | None:
    """The card, and the variant in it, whose official checkpoints have such tensor names; None where no system's have."""
    names = list(names)
    for card in all_cards():
        for variant, signature in card.signatures.items():
            if signature.matches(names):
                return card, variant
    return None

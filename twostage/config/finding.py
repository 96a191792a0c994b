"""Which file a config's name means. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twostage.errors import UserError, near_names
from twostage.systems.cards import all_cards, config_path


def find_config(name: str) -> str:
    """Path of a config given by file name, by its name under configs/, or by its name on an installed system's card.

    Raises:
        UserError: there is none.
    """
    if Path(name).is_file():
        return name
    package = Path(__file__).parents[1]
    # Beside the package in a checkout, inside it when installed.
    folders = [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()]
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return str(folder / f"{name}.yaml")
    installed = config_path(name)
    if installed is not None:
        return str(installed)
    known = [str(p.relative_to(f).with_suffix("")) for f in folders for p in f.rglob("*.yaml")]
    known += [config for card in all_cards() if card.config_package for config in card.configs]
    known = sorted(k for k in known if not k.startswith("base/"))
    for card in all_cards():
        if card.name.casefold() == name.casefold():
            raise UserError(
                f"{card.name} comes in several configs, so {name!r} is not enough; give {_either(card.configs)}"
            )
    raise UserError(f"no config {name!r}{near_names(name, known)}; there are: {', '.join(known)}")


def _either(names: Sequence[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}" if first else last

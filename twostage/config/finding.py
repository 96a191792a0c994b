"""Which file a config's name means. Imports no torch."""

from __future__ import annotations

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
    for folder in _folders():
        if (folder / f"{name}.yaml").is_file():
            return str(folder / f"{name}.yaml")
    installed = config_path(name)
    if installed is not None:
        return str(installed)
    for card in all_cards():
        if card.name.casefold() == name.casefold():
            raise UserError(f"{name!r} is a system with several settings; ask for one: {', '.join(card.configs)}")
    raise UserError(f"no config {name!r}{near_names(name, config_names())}; `twostage systems` lists them")


def config_names() -> list[str]:
    """Every name that `find_config` knows, sorted."""
    known = {str(p.relative_to(f).with_suffix("").as_posix()) for f in _folders() for p in f.rglob("*.yaml")}
    known |= {config for card in all_cards() if card.config_package for config in card.configs}
    return sorted(name for name in known if not name.startswith("base/"))


def _folders() -> list[Path]:
    """Beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parents[1]
    return [folder for folder in (package.parent / "configs", package / "configs") if folder.is_dir()]

"""Which systems the page offers: those asked for, or all whose weights are on this machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import open_clip

from twostage.api import load
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.systems.cards import all_cards
from twostage.web.served import Served
from twostage.weights.find import check_named
from twostage.weights.names import address_of, find_published, official_weights
from twostage.weights.store import place_of
from twostage.weights.tags import open_clip_addresses


def asked_systems(
    systems: Sequence[str], weights: Sequence[str], device: str, opts: Sequence[str] = ()
) -> list[Served]:
    """Systems by config, each with its weights where given.

    Raises:
        UserError: more weights than systems, an unknown config, one system twice, or weights that aren't on this machine.
    """
    if len(weights) > len(systems):
        raise UserError(
            f"{len(weights)} --weights for {len(systems)} --system; give one for each system, in the same order"
        )
    if len(set(systems)) < len(systems):
        raise UserError("a --system is given twice; give each once")
    served = []
    for index, system in enumerate(systems):
        file = weights[index] if index < len(weights) else None
        # Everything but the model itself is looked at before the page opens.
        cfg = load_config(find_config(system), [*opts, *([] if file is None else ["MODEL.WEIGHTS", file])])
        check_named(cfg.MODEL.WEIGHTS)
        served.append(Served(system, functools.partial(load, system, weights=file, device=device, opts=opts)))
    return served


def systems_here(device: str, opts: Sequence[str] = ()) -> list[Served]:
    """Published systems whose weights are here: checkpoints in the store, CLIPs for training-free ones, toybox's own.

    Raises:
        UserError: there are none.
    """
    found = []
    for card in all_cards():
        for config in card.configs:
            weights = _weights_here(config, training_free=card.paradigm == "training-free")
            if weights is not None:
                found.append(
                    Served(config, functools.partial(load, config, weights=weights or None, device=device, opts=opts))
                )
    if not found:
        raise UserError("no system's weights are on this machine; get some by `twostage weights get san_vitb`")
    return found


def _weights_here(config: str, *, training_free: bool) -> str | None:
    """The official checkpoint's name, "" where a config needs none; None where something would have to be downloaded."""
    # Configs for single data sets of a training-free system are the same model.
    if config.startswith("training_free/"):
        return None
    if training_free:
        clip = load_config(find_config(config)).MODEL.CLIP
        tag = open_clip.get_pretrained_cfg(clip.NAME, clip.PRETRAINED)
        here = clip.PRETRAINED == "toybox" or any(place_of(address).is_file() for address in open_clip_addresses(tag))
        return "" if here else None
    try:
        name = official_weights(config)
    except UserError:
        return None
    found = find_published(name)
    return name if found and place_of(address_of(*found)).is_file() else None

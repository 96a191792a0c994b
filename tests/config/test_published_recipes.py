"""Published configs hold the published settings, written down here once more from the facts of each system.

A reference case can't tell a wrong config where it states the setting itself, nor where nothing that it compares depends on
it, as on training sets, schedules and sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from published_recipes import one_stage, queries, regions

from twostage.config import load_config
from twostage.config.loading import get_key

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {**one_stage.RECIPES, **queries.RECIPES, **regions.RECIPES}
# These train as well: SegCLIP learns from captions, the others take their masks from elsewhere.
ELSEWHERE = {"segclip_vitb", "ovseg_sam", "ovseg_superpixels"}


def plain(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(value) if isinstance(value, list | tuple) else value


def test_every_config_that_trains_has_its_recipe_here() -> None:
    trained = {path.stem for path in CONFIGS.glob("*.yaml") if load_config(str(path)).DATASETS.TRAIN}
    assert trained == set(RECIPES) | ELSEWHERE


@pytest.mark.parametrize("config", RECIPES)
def test_settings_are_the_published_ones(config: str) -> None:
    cfg = load_config(str(CONFIGS / f"{config}.yaml"))
    differ = {}
    for key, published in RECIPES[config].items():
        ours = get_key(cfg, key)
        if plain(ours) != plain(published):
            differ[key] = (ours, published)
    assert not differ, "ours, published"

"""Pictures of toybox to try the page with."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from twostage.data.toybox.dataset import SEED, plan_scenes, render

_COUNT = 3
# Scenes that hold words unseen in training, too.
_SPLIT = "open"


def toybox_examples(folder: Path) -> list[list[str]]:
    """Writes the pictures into `folder`; returns rows of a picture's path and words for it."""
    rows = []
    for plan, scene in render(plan_scenes(SEED, _SPLIT, _COUNT), SEED, _SPLIT):
        path = folder / f"{plan.name}.png"
        Image.fromarray(scene.image).save(path)
        words = (*plan.stuff, *(thing.name for thing in plan.things))
        rows.append([str(path), ", ".join(words)])
    return rows

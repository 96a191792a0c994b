"""Published configs take those classes for trained that the published code does: other lists move results without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from twostage.config import load_config
from twostage.data.catalogue import class_list
from twostage.errors import UserError
from twostage.systems.two_stage.trained_names import trained_names

ROOT = Path(__file__).parents[2]
# Which class list, synonyms included, each trunk was published with (FC-CLIP facts 3, MAFT+ facts, table of variants).
PUBLISHED = {
    "fcclip": "coco_panoptic",
    "maftp": "coco_stuff",
    "maftp_panoptic": "coco_panoptic",
    "odise": "coco_panoptic",
}
KEYS = {"FCCLIP": "FCCLIP", "MAFTPlus": "FCCLIP", "MaskAdapter": "FCCLIP", "ODISE": "ODISE"}
CONFIGS = {
    path.stem: cfg
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if (cfg := load_config(str(path))).MODEL.META_ARCHITECTURE in KEYS
}


def published(config: str) -> str:
    """`PUBLISHED`'s key for a config: its trunk."""
    trunk = config.removeprefix("mask_adapter_").removeprefix("warmup_").split("_")[0]
    return f"{trunk}_panoptic" if config.endswith("_panoptic") else trunk


@pytest.mark.parametrize("config", CONFIGS)
def test_names_are_the_authors(config: str) -> None:
    cfg = CONFIGS[config]
    key = f"MODEL.{KEYS[cfg.MODEL.META_ARCHITECTURE]}.TRAIN_VOCABULARY"
    names = trained_names(cfg, cfg.MODEL[key.split(".")[1]].TRAIN_VOCABULARY, key)
    system = "odise" if config.startswith("odise") else "fcclip"
    expected = class_list(PUBLISHED[published(config)]).variant(system)
    assert names == {name for group in expected.synonyms for name in group}


def test_lists_have_their_published_sizes() -> None:
    sizes = {
        trunk: len(trained_names(CONFIGS[config], "", "MODEL.FCCLIP.TRAIN_VOCABULARY"))
        for trunk, config in (("fcclip", "fcclip_convnextl"), ("maftp", "maftp_convnextb"))
    }
    assert sizes == {"fcclip": 254, "maftp": 328}


def test_both_lists_are_told_apart_by_a_class() -> None:
    """FC-CLIP's full-size case asks for a lamp: COCO panoptic's "light" goes by that name, COCO-Stuff's not."""
    panoptic = trained_names(CONFIGS["fcclip_convnextl"], "", "MODEL.FCCLIP.TRAIN_VOCABULARY")
    stuff = trained_names(CONFIGS["maftp_convnextb"], "", "MODEL.FCCLIP.TRAIN_VOCABULARY")
    assert "lamp" in panoptic and "lamp" not in stuff


@pytest.mark.parametrize("config", ["fcclip_convnextl", "mask_adapter_maftp_convnextb", "odise_label"])
@pytest.mark.parametrize("words", ["catseg", "san", "odise", "fcclip"])
def test_what_was_trained_does_not_depend_on_how_is_asked(config: str, words: str) -> None:
    key = KEYS[CONFIGS[config].MODEL.META_ARCHITECTURE]
    asked = load_config(str(ROOT / "configs" / f"{config}.yaml"), ["DATASETS.CLASS_NAMES", words])
    first, second = (trained_names(cfg, cfg.MODEL[key].TRAIN_VOCABULARY, key) for cfg in (CONFIGS[config], asked))
    assert first == second


def test_names_that_there_are_not() -> None:
    with pytest.raises(UserError, match=r"'nosuch' do not exist for coco_panoptic"):
        trained_names(CONFIGS["fcclip_convnextl"], "nosuch:coco_panoptic_train", "MODEL.FCCLIP.TRAIN_VOCABULARY")

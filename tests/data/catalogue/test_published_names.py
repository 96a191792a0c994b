"""Registered names bring the class names of whoever uses them, and a system is asked in its authors' words everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import twostage  # noqa: F401
from twostage.config import load_config
from twostage.data.catalogue import benchmarks, class_list
from twostage.data.views import dataset_info, evaluated_view
from twostage.errors import UserError
from twostage.evaluation.selection import FIVE, select_datasets

CONFIGS = Path(__file__).parents[3] / "configs"
# The names that the published configs train and test on, and whose configs these are.
USERS = {
    "coco_2017_train_stuff_sem_seg": ("san", "ovseg", "scan"),
    "coco_2017_test_stuff_sem_seg": ("san", "zsseg"),
    "coco_2017_train_stuff_all_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "coco_2017_test_stuff_all_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "openvocab_coco_2017_train_stuff_sem_seg": ("maftp", "mask_adapter"),
    "openvocab_coco_2017_train_panoptic_with_sem_seg": ("fcclip", "mask_adapter"),
    "openvocab_coco_2017_val_panoptic_with_sem_seg": ("fcclip", "mask_adapter"),
    "coco_seg_pan_voab": ("maftp",),
    "coco_2017_val_panoptic_with_sem_seg": ("mask2former",),
    "ade20k_150_test_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "ade20k_sem_seg_val": ("san", "ovseg", "scan", "zsseg"),
    "openvocab_ade20k_panoptic_val": ("fcclip", "maftp", "mask_adapter", "odise"),
    "ade20k_full_sem_seg_val": ("san", "ovseg", "scan"),
    # Both versions of CAT-Seg and SED test on it; version 2 cuts the names itself, the others ask for all synonyms.
    "ade20k_full_sem_seg_freq_val_all": ("sed", "errseg", "pcaseg"),
    "openvocab_ade20k_full_sem_seg_val": ("fcclip", "maftp", "mask_adapter"),
    "context_59_test_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "pcontext_sem_seg_val": ("san", "zsseg"),
    "pascal_context_59_sem_seg_val": ("ovseg", "scan"),
    "openvocab_pascal_ctx59_sem_seg_val": ("fcclip", "maftp", "mask_adapter"),
    "ctx59_sem_seg_val": ("odise",),
    "context_459_test_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "pcontext_full_sem_seg_val": ("san",),
    "pascal_context_459_sem_seg_val": ("ovseg", "scan"),
    "openvocab_pascal_ctx459_sem_seg_val": ("fcclip", "maftp", "mask_adapter"),
    "ctx459_sem_seg_val": ("odise",),
    "voc_2012_test_sem_seg": ("catseg", "sed", "errseg", "pcaseg"),
    "voc_2012_test_background_sem_seg": ("catseg", "sed"),
    "voc_sem_seg_val": ("san",),
    "voc_sem_seg_test": ("zsseg",),
    "pascalvoc20_sem_seg_val": ("ovseg", "scan"),
    "openvocab_pascal20_sem_seg_val": ("fcclip", "maftp", "mask_adapter"),
    "openvocab_pascal21_sem_seg_val": ("fcclip",),
    "pascal21_sem_seg_val": ("odise",),
    "openvocab_cityscapes_fine_panoptic_val": ("fcclip",),
}
# Config -> whose names it asks for on the five usual benchmarks, in the words that `DATASETS.CLASS_NAMES` takes.
AUTHORS = {
    "san_vitb": "san",
    "san_vitl": "san",
    "catseg_v1_vitb_r101": "sed",
    "sed_convnextl": "sed",
    "ovseg_r101c_vitb": "ovseg",
    "ovseg_swinb_vitl": "ovseg",
    "scan_vitl": "scan",
    "fcclip_convnextl": "fcclip",
    "fcclip_r50": "fcclip",
    "maftp_convnextl": "maftp",
    "mask_adapter_fcclip_convnextl": "mask_adapter",
    "mask_adapter_maftp_convnextb": "mask_adapter",
    "odise_label": "odise",
}


@pytest.mark.parametrize("name", USERS)
def test_names_are_those_of_who_uses_the_set(name: str) -> None:
    info = dataset_info(name)
    names = class_list(benchmarks()[info.benchmark].classes.name)
    for system in USERS[name]:
        assert info.prompts == names.variant(system).names, system


def test_catseg_cuts_at_the_first_synonym_itself() -> None:
    """So that version 1 and SED, which test on the same registered set, get all of them."""
    assert load_config(str(CONFIGS / "catseg_vitb.yaml")).MODEL.CLIP.FIRST_SYNONYM
    cut = tuple(name.partition(", ")[0] for name in dataset_info("ade20k_full_sem_seg_freq_val_all").prompts)
    assert cut == class_list("ade20k_847").variant("catseg").names


@pytest.mark.parametrize("config", AUTHORS)
def test_a_system_is_asked_in_its_authors_words(config: str) -> None:
    """Also under our own names, which is what "five" and "A-150" mean."""
    cfg = load_config(str(CONFIGS / f"{config}.yaml"))
    cfg.DATASETS.TEST = tuple(select_datasets(FIVE))
    for name in cfg.DATASETS.TEST:
        info = evaluated_view(cfg, name)
        names = class_list(benchmarks()[info.benchmark].classes.name)
        assert info.prompts == names.variant(AUTHORS[config]).names, name


def test_benchmarks_that_its_authors_have_no_words_for() -> None:
    cfg = load_config(str(CONFIGS / "san_vitb.yaml"), ["DATASETS.TEST", "('cityscapes_val','ade20k_150_test_sem_seg')"])
    assert evaluated_view(cfg, "cityscapes_val") == dataset_info("cityscapes_val")
    # A name of somebody's repository brings theirs.
    assert evaluated_view(cfg, "ade20k_150_test_sem_seg") == dataset_info("ade20k_150_test_sem_seg")
    cfg.DATASETS.AUTO_NAMES = "sna"
    with pytest.raises(UserError, match="AUTO_NAMES is 'sna'"):
        evaluated_view(cfg, "cityscapes_val")

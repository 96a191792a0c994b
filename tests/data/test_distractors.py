"""Names that no label holds, beside a dataset's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from twostage.config import load_config
from twostage.data.catalogue import dataset_info
from twostage.data.distractors import read_distractors
from twostage.data.registration import configure_datasets
from twostage.data.toybox import words
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.vocabulary import Vocabulary


def configure(*opts: str) -> None:
    configure_datasets(load_config(opts=list(opts)))


def test_distractors_follow_the_classes_and_go_again(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("aeroplane\nred brick\nmoss\n")
    test = ["DATASETS.TEST", "('toybox_val_open', 'voc_2012_test_sem_seg')"]
    before = {name: vars(MetadataCatalog.get(name)).copy() for name in ("toybox_val_open", "voc_2012_test_sem_seg")}
    configure(*test, "DATASETS.DISTRACTORS", str(names))
    toy = EvaluatedDataset.from_metadata("toybox_val_open")
    assert toy.class_names == (*words.CLASSES, "aeroplane", "red brick", "moss")
    assert Vocabulary.from_dataset("toybox_val_open").names == toy.class_names
    assert toy.seen + toy.unseen == tuple(range(54))
    # "aeroplane" is one of VOC's own.
    voc = EvaluatedDataset.from_metadata("voc_2012_test_sem_seg")
    assert voc.class_names[20:] == ("red brick", "moss")
    assert dataset_info("voc_2012_test_sem_seg").num_classes == 20
    configure(*test, "DATASETS.DISTRACTORS", "toybox:7")
    assert len(EvaluatedDataset.from_metadata("toybox_val_open").class_names) == 54 + 7
    configure(*test)
    for name, metadata in before.items():
        now = vars(MetadataCatalog.get(name))
        assert {k: v for k, v in now.items() if k != "info"} == {k: v for k, v in metadata.items() if k != "info"}


def test_labels_stay_as_narrow_as_they_are() -> None:
    """Thousands of names that no label holds need no 16-bit labels, in toybox's own large vocabulary neither."""
    test = ("DATASETS.TEST", "('toybox_val_open',)")
    configure(*test, "DATASETS.DISTRACTORS", "toybox:300")
    toy = EvaluatedDataset.from_metadata("toybox_val_open")
    assert toy.num_classes == 354 and toy.largest_label == 255
    configure(*test)
    assert EvaluatedDataset.from_metadata("toybox_val_open").num_labelled is None
    large = EvaluatedDataset.from_metadata("toybox_val_large")
    assert large.num_classes > 255 and large.largest_label == 255
    assert EvaluatedDataset.from_metadata("ade20k_full_sem_seg_freq_val_all").largest_label == 65535


def test_training_sets_get_no_distractors() -> None:
    opts = ("DATASETS.TRAIN", "('toybox_train',)", "DATASETS.TEST", "('toybox_val_open',)")
    configure(*opts, "DATASETS.DISTRACTORS", "toybox:5")
    assert len(Vocabulary.from_dataset("toybox_train")) == 36
    assert len(Vocabulary.from_dataset("toybox_val_open")) == 59
    configure(*opts)


def test_folded_prompts_keep_their_class() -> None:
    """PAS-20b asks for 59 names and counts those from 20 on as background; a distractor stays a class of its own."""
    test = ("DATASETS.TEST", "('voc_2012_test_background_sem_seg',)")
    configure(*test)
    plain = EvaluatedDataset.from_metadata("voc_2012_test_background_sem_seg")
    configure(*test, "DATASETS.DISTRACTORS", "toybox:3")
    more = EvaluatedDataset.from_metadata("voc_2012_test_background_sem_seg")
    configure(*test)
    assert plain.prompt_to_class is not None and more.prompt_to_class is not None
    assert more.prompt_to_class.tolist() == [*plain.prompt_to_class.tolist(), 21, 22, 23]


def test_toybox_makes_near_ones_first() -> None:
    names = words.distractors(5000)
    assert len(set(names)) == 5000 and not set(names) & set(words.CLASSES)
    assert all(len(name.split()) == 3 for name in names[:100])
    assert names[:600] == words.distractors(600)


@pytest.mark.parametrize(
    "source, message",
    [
        (os.devnull + "x", "must be '' \\(none\\), a file"),
        ("toybox:many", "whole number"),
        ("toybox:0", "whole number"),
        ("toybox:99999999", "toybox's words make"),
    ],
)
def test_bad_sources(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_distractors(source)

"""Names that no label holds, beside a dataset's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from twostage.config import load_config
from twostage.data import loaders
from twostage.data.distractors import read_distractors
from twostage.data.toybox import words
from twostage.data.views import dataset_info, dataset_view, evaluated_view
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.segmenter import batch_vocabulary
from twostage.vocabulary import Vocabulary


def evaluated(name: str, *opts: str) -> EvaluatedDataset:
    """`name` as evaluated by a config with these options."""
    return EvaluatedDataset.of(evaluated_view(load_config(opts=["DATASETS.TEST", f"('{name}',)", *opts]), name))


def test_distractors_follow_the_classes_and_stay_with_their_config(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("aeroplane\nred brick\nmoss\n")
    before = {name: dataset_info(name) for name in ("toybox_val_open", "voc_2012_test_sem_seg")}
    toy = evaluated("toybox_val_open", "DATASETS.DISTRACTORS", str(names))
    assert toy.class_names == toy.prompt_names == (*words.CLASSES, "aeroplane", "red brick", "moss")
    assert toy.seen + toy.unseen == tuple(range(54))
    # "aeroplane" is one of VOC's own.
    voc = evaluated("voc_2012_test_sem_seg", "DATASETS.DISTRACTORS", str(names))
    assert voc.class_names[20:] == ("red brick", "moss")
    assert voc.info.num_classes == 20
    assert len(evaluated("toybox_val_open", "DATASETS.DISTRACTORS", "toybox:7").class_names) == 54 + 7
    assert {name: dataset_info(name) for name in before} == before
    assert Vocabulary.from_dataset("toybox_val_open").names == words.CLASSES


def test_batches_ask_for_the_distractors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "dataset_records", lambda info, **_: [{"file_name": "a.png"}])
    opts = ["DATASETS.TEST", "('toybox_val_open',)", "DATALOADER.NUM_WORKERS", "0"]
    cfgs = [load_config(opts=opts), load_config(opts=[*opts, "DATASETS.DISTRACTORS", "toybox:7"])]
    batches = [next(iter(loaders.build_test_loader(cfg, "toybox_val_open", mapper=dict))) for cfg in (*cfgs, cfgs[0])]
    assert [len(batch[0]["vocabulary"]) for batch in batches] == [54, 61, 54]
    things = tuple(i for i, word in enumerate(words.CLASSES) if word not in words.STUFF)
    assert all(batch[0]["things"] == things for batch in batches)
    assert batch_vocabulary(batches[1]).names == evaluated_view(cfgs[1], "toybox_val_open").prompts


def test_labels_stay_as_narrow_as_they_are() -> None:
    """Thousands of names that no label holds need no 16-bit labels, in toybox's own large vocabulary neither."""
    toy = evaluated("toybox_val_open", "DATASETS.DISTRACTORS", "toybox:300")
    assert toy.num_classes == 354 and toy.num_labelled == 54 and toy.largest_label == 255
    large = evaluated("toybox_val_large")
    assert large.num_classes > 255 and large.largest_label == 255
    assert evaluated("ade20k_full_sem_seg_freq_val_all").largest_label == 65535


def test_training_sets_get_no_distractors() -> None:
    opts = ["DATASETS.TRAIN", "('toybox_train',)", "DATASETS.TEST", "('toybox_val_open','toybox_train')"]
    cfg = load_config(opts=[*opts, "DATASETS.DISTRACTORS", "toybox:5"])
    assert len(dataset_view(cfg, "toybox_train").prompts) == 36
    assert [len(evaluated_view(cfg, name).prompts) for name in cfg.DATASETS.TEST] == [59, 41]


def test_folded_prompts_keep_their_class() -> None:
    """PAS-20b asks for 59 names and counts those from 20 on as background; a distractor stays a class of its own."""
    plain = evaluated("voc_2012_test_background_sem_seg")
    more = evaluated("voc_2012_test_background_sem_seg", "DATASETS.DISTRACTORS", "toybox:3")
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

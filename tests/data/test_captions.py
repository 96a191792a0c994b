"""Image-caption pairs: file formats, the mapper, the toybox set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from twostage.config import load_config
from twostage.data import loaders
from twostage.data.caption_mapper import CaptionMapper
from twostage.data.captions import read_caption_lines, read_karpathy, register_caption_set
from twostage.data.mapper import SemanticTrainingMapper
from twostage.data.randomness import seeded_sampling
from twostage.data.toybox import caption_set
from twostage.data.toybox.captioned import NAMES
from twostage.data.toybox.words import STUFF
from twostage.data.views import dataset_info
from twostage.errors import UserError


def mapper(**changes) -> CaptionMapper:
    settings = {
        "size": 32,
        "area": (0.5, 1.0),
        "superpixel_scale": 100.0,
        "superpixel_sigma": 0.5,
        "superpixel_min_size": 20,
    }
    return CaptionMapper(**(settings | changes))


@pytest.fixture
def two_halves(tmp_path: Path) -> dict[str, str]:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (200, 30, 30)
    image[:, 30:] = (30, 30, 200)
    Image.fromarray(image).save(tmp_path / "a.png")
    return {"file_name": str(tmp_path / "a.png"), "caption": "red and blue"}


def test_every_caption_makes_a_pair(tmp_path: Path) -> None:
    lines = [{"image": "x/a.jpg", "captions": ["a cat", "a pet"]}, {"image": "b.jpg", "captions": ["a dog"]}]
    (tmp_path / "captions.jsonl").write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    pairs = read_caption_lines(tmp_path)
    assert [p["caption"] for p in pairs] == ["a cat", "a pet", "a dog"]
    assert pairs[1]["file_name"] == str(tmp_path / "x" / "a.jpg")


@pytest.mark.parametrize("line", ["{", '{"image": "a.jpg"}', '"text"', '{"image": "a.jpg", "captions": "a cat"}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "captions": []}\n' + line)
    with pytest.raises(UserError, match=r"captions\.jsonl', line 2"):
        read_caption_lines(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"captions\.jsonl.*json object per line"):
        read_caption_lines(tmp_path)
    with pytest.raises(UserError, match=r"dataset_coco\.json.*Karpathy"):
        read_karpathy(tmp_path)


def test_karpathys_train_part(tmp_path: Path) -> None:
    images = [
        {
            "filepath": "train2014",
            "filename": "a.jpg",
            "split": "train",
            "sentences": [{"raw": " A cat. "}, {"raw": "b"}],
        },
        {"filepath": "val2014", "filename": "b.jpg", "split": "val", "sentences": [{"raw": "A dog."}]},
        {"filepath": "val2014", "filename": "c.jpg", "split": "restval", "sentences": [{"raw": "A cow."}]},
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    assert [p["caption"] for p in read_karpathy(tmp_path)] == ["A cat.", "b"]
    more = read_karpathy(tmp_path, ("train", "restval"))
    assert more[2]["file_name"] == str(tmp_path / "val2014" / "c.jpg")


def test_superpixels_are_cut_like_the_picture(two_halves: dict[str, str]) -> None:
    for seed in range(5):
        with seeded_sampling(seed):
            sample = mapper()(two_halves)
        assert sample["image"].shape == (3, 32, 32) and sample["image"].dtype == torch.uint8
        assert sample["superpixels"].shape == (32, 32) and sample["superpixels"].dtype == torch.int64
        assert sample["caption"] == "red and blue" and (sample["height"], sample["width"]) == (40, 60)
        red = sample["image"][0] > sample["image"][2]
        ids = sample["superpixels"]
        # One id on each side of the border, a column at most of which is mixed by the resize.
        agreement = [((ids == ids[red].mode().values) == red).float().mean()] if red.any() and (~red).any() else [1]
        assert min(agreement) > 0.95


def test_the_part_depends_on_the_seed_and_covers_enough(two_halves: dict[str, str]) -> None:
    def shown(seed: int, **changes) -> torch.Tensor:
        with seeded_sampling(seed):
            return mapper(**changes)(two_halves)["image"]

    assert torch.equal(shown(1), shown(1))
    assert len({shown(seed).float().mean((1, 2)).numpy().tobytes() for seed in range(6)}) > 3


def test_sets_with_captions_and_sets_with_labels_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    register_caption_set("test_pairs", lambda: [{"file_name": "a.png", "caption": "a"}])
    try:
        pairs, captions, labels = map(dataset_info, ("test_pairs", "toybox_captions", "toybox_train"))
        assert [info.kind for info in (pairs, captions, labels)] == ["captions", "captions", "sem_seg"]
        assert loaders.entry_facts(pairs) == {}
        monkeypatch.setattr(loaders, "dataset_records", lambda info, **kwargs: [{"file_name": info.name}])
        assert len(loaders.training_records([pairs, captions])) == 2
        with pytest.raises(UserError, match="don't mix"):
            loaders.training_records([pairs, labels])
    finally:
        DatasetCatalog.remove("test_pairs")


def test_the_loader_takes_the_mapper_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "training_records", lambda names, **_: [{"file_name": "a.png"}])
    cfg = load_config("configs/toybox/segclip.yaml")
    assert isinstance(loaders.build_train_loader(cfg).stream.mapper, CaptionMapper)
    cfg.DATASETS.TRAIN = ("toybox_train",)
    assert isinstance(loaders.build_train_loader(cfg).stream.mapper, SemanticTrainingMapper)


def test_bad_area_is_refused() -> None:
    with pytest.raises(UserError, match=r"INPUT\.CAPTIONS\.AREA"):
        load_config("configs/toybox/segclip.yaml", ["INPUT.CAPTIONS.AREA", "(0.9, 0.5)"])


def test_scene_captions_name_all_and_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_set, "NUM_PICTURES", 6)
    for name in "ab":
        caption_set.ensure_toybox_scene_captions(tmp_path / name)
    folder = tmp_path / "a" / "toybox_scene_captions"
    pairs = read_caption_lines(folder)
    assert len(pairs) == 12 and pairs == [
        pair | {"file_name": pair["file_name"].replace("/b/", "/a/")}
        for pair in read_caption_lines(tmp_path / "b" / "toybox_scene_captions")
    ]
    for whole, part in zip(pairs[::2], pairs[1::2], strict=True):
        said = [name for name in NAMES if name in part["caption"]]
        assert said and max(said, key=len) in whole["caption"]
        assert any(f" on {stuff}" in whole["caption"] for stuff in STUFF)


def test_toybox_captions_write_themselves_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_set, "NUM_PICTURES", 3)
    folders = [caption_set.ensure_toybox_captions(tmp_path / name) for name in "ab"]
    pairs = read_caption_lines(folders[0])
    assert len(pairs) == 3 and all(Path(p["file_name"]).is_file() for p in pairs)
    for file in sorted(p for p in folders[0].rglob("*") if p.is_file()):
        assert file.read_bytes() == (folders[1] / file.relative_to(folders[0])).read_bytes()
    # A finished set is not written again.
    stamp = (folders[0] / "captions.jsonl").stat().st_mtime_ns
    caption_set.ensure_toybox_captions(tmp_path / "a")
    assert (folders[0] / "captions.jsonl").stat().st_mtime_ns == stamp

"""Mask-category pairs, their augmentation, the training of prompts and tower, accuracy on masked pictures."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from twostage.api import Segmenter, build_from_config
from twostage.clip.loading import load_clip
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.config import load_config
from twostage.data.nouns import noun_phrases
from twostage.data.toybox.captioned import NAMES, SIZED_TEMPLATES, sentence
from twostage.data.toybox.captioned import TEMPLATES as CAPTION_TEMPLATES
from twostage.errors import UserError
from twostage.systems.two_stage.ovseg.adaptation.accuracy import masked_accuracy
from twostage.systems.two_stage.ovseg.adaptation.merging import merge_clip
from twostage.systems.two_stage.ovseg.adaptation.pair_data import PairDataset, centre_crop
from twostage.systems.two_stage.ovseg.adaptation.pairs import (
    BLANK,
    Pair,
    masked_crop,
    pairs_from_captions,
    pairs_from_labels,
    read_pairs,
    write_pairs,
)
from twostage.systems.two_stage.ovseg.adaptation.tuning import (
    RECIPES,
    TuningRecipe,
    contrastive_loss,
    learning_rate_factor,
    optimizer_groups,
    trained_parameters,
    tune,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("A man riding a wave on top of a surfboard.", ["man", "wave", "surfboard"]),
        ("Two dogs are playing with a red ball in the park", ["dogs", "red ball", "park"]),
        ("a large brick building, a painting and the ceiling", ["brick building", "painting", "ceiling"]),
        ("There is a small dotted pink star in the scene.", ["dotted pink star"]),
        ("the cat and the cat", ["cat"]),
        ("this is it", []),
    ],
)
def test_nouns(caption, nouns):
    assert noun_phrases(caption) == nouns


def test_nouns_of_toybox_captions_are_what_they_mention():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mentions = tuple(int(m) for m in rng.choice(len(NAMES), size=2, replace=False))
        assert sorted(noun_phrases(sentence(rng, mentions, 1))) == sorted(NAMES[m] for m in mentions)
    assert CAPTION_TEMPLATES and SIZED_TEMPLATES


def test_crop_is_tight_and_blank_outside():
    image = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3] = mask[4, 3:9] = True
    crop = masked_crop(image, mask)
    assert crop.shape == (3, 6, 3)
    assert (crop[2] == image[4, 3:9]).all() and (crop[0, 1:] == BLANK).all() and (crop[0, 0] == image[2, 3]).all()


def write_scene(folder, name, image, labels):
    Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(labels).save(folder / f"{name}_labels.png")
    return {"file_name": str(folder / f"{name}.png"), "sem_seg_file_name": str(folder / f"{name}_labels.png")}


def test_pairs_from_labels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    labels = np.full((8, 8), 255, np.uint8)
    labels[:4], labels[6, 6] = 1, 0
    records = [write_scene(tmp_path, "a", image, labels)]
    pairs = list(pairs_from_labels(records, ["cat", "sky"], ignore_label=255, min_pixels=1))
    assert [(p.title, p.image.shape) for p in pairs] == [("cat", (1, 1, 3)), ("sky", (4, 8, 3))]
    assert (pairs[1].image == image[:4]).all()
    assert [p.title for p in pairs_from_labels(records, ["cat", "sky"], ignore_label=255, min_pixels=2)] == ["sky"]


def test_pairs_survive_the_disk(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert write_pairs([Pair(image, "a cat, sitting"), Pair(image[:2], "sky")], tmp_path) == 2
    pairs = read_pairs(tmp_path)
    assert [title for _, title in pairs] == ["a cat, sitting", "sky"]
    assert (np.array(Image.open(pairs[0][0])) == image).all()
    assert (tmp_path / "pairs.csv").read_text().splitlines()[0] == "filepath\ttitle"
    with pytest.raises(UserError, match="no mask-category pairs"):
        write_pairs([], tmp_path / "none")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="filepath and title"):
        read_pairs(tmp_path / "other.csv")


def test_mask_is_read_off_the_blank_colour(tmp_path):
    image = np.full((40, 60, 3), BLANK, np.uint8)
    image[:, :30] = 200
    write_pairs([Pair(image, "wall")], tmp_path)
    sample = PairDataset(read_pairs(tmp_path), size=32, augment=False)[0]
    assert sample.image.shape == (3, 32, 32) and sample.mask.shape == (1, 32, 32)
    # The middle 32 of 48 columns; the border at 24 is blurred, and blurred pixels count as foreground.
    assert sample.mask[0, :, :16].all() and not sample.mask[0, :, 20:].any()
    assert centre_crop(Image.fromarray(image), 32).size == (32, 32)


def test_augmentation_is_random(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    write_pairs([Pair(image, "noise")], tmp_path)
    torch.manual_seed(0)
    data = PairDataset(read_pairs(tmp_path), size=32, augment=True)
    a, b = data[0].image, data[0].image
    assert a.shape == (3, 32, 32) and not torch.equal(a, b)


def toy_clip(depth=2):
    clip, tokenizer = load_clip("toybox-vit", pretrained="toybox", mask_prompt_depth=depth)
    return clip, TextEmbedder(clip=clip, tokenizer=tokenizer, templates=("{}",), split_synonyms=False)


def test_what_trains():
    clip, _ = toy_clip()
    assert set(trained_parameters(clip, "prompts")) == {"visual.mask_embedding", "logit_scale"}
    tower = trained_parameters(clip, "clip")
    assert "logit_scale" in tower and "visual.mask_embedding" not in tower and "visual.conv1.weight" in tower
    assert not any(name.startswith("transformer.") or name == "token_embedding.weight" for name in tower)
    groups = optimizer_groups(tower, 0.2)
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"]) and all(p.ndim < 2 for p in groups[1]["params"])
    (only,) = optimizer_groups(trained_parameters(clip, "prompts"), 0.2)
    assert only["weight_decay"] == 0.0
    with pytest.raises(UserError, match="no mask prompts"):
        trained_parameters(toy_clip(0)[0], "prompts")


def test_published_recipes():
    large = RECIPES["ViT-L-14"]
    assert (large["clip"].learning_rate, large["clip"].weight_decay, large["clip"].epochs) == (5e-6, 0.2, 5)
    assert (large["prompts"].learning_rate, large["prompts"].epochs, large["prompts"].warmup) == (0.05, 5, 100)


def test_schedule_and_loss():
    assert learning_rate_factor(0, 1000, 100) == pytest.approx(0.01)
    assert learning_rate_factor(99, 1000, 100) == 1.0
    assert learning_rate_factor(550, 1000, 100) == pytest.approx(0.5)
    assert learning_rate_factor(1000, 1000, 100) == pytest.approx(0)
    same = F.normalize(torch.ones(4, 3), dim=-1)
    # Equal titles are negatives of each other: four equal rows can't do better than ln 4.
    assert float(contrastive_loss(same, same, torch.tensor(100.0))) == pytest.approx(math.log(4))
    assert float(contrastive_loss(torch.eye(4), torch.eye(4), torch.tensor(100.0))) < 1e-6


def colour_pairs(folder, count, titles=("plain red circle", "plain green circle", "plain blue circle")):
    """Discs of three colours on blank ground, under the titles given."""
    rng = np.random.default_rng(0)
    colours = [(220, 40, 40), (50, 180, 60), (50, 80, 220)]
    pairs = []
    for number in range(count):
        kind = number % 3
        image = np.full((40, 40, 3), BLANK, np.uint8)
        y, x = np.mgrid[:40, :40]
        image[(y - 20) ** 2 + (x - 20) ** 2 < rng.integers(100, 380)] = colours[kind]
        pairs.append(Pair(image, titles[kind]))
    write_pairs(pairs, folder)
    return read_pairs(folder)


@pytest.mark.parametrize("parts", ["prompts", "clip"])
def test_tuning_learns_and_leaves_the_rest_alone(tmp_path, parts):
    clip, text = toy_clip()
    data = PairDataset(colour_pairs(tmp_path, 12), size=128, augment=True)
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    rate = 0.02 if parts == "prompts" else 1e-4
    recipe = TuningRecipe(parts=parts, epochs=1, batch_size=6, learning_rate=rate)
    tune(clip, text, data, recipe)
    changed = {name for name, value in clip.state_dict().items() if not torch.equal(value, before[name])}
    allowed = {"prompts": {"visual.mask_embedding", "logit_scale"}}.get(parts)
    if allowed:
        assert changed == allowed
    else:
        assert "visual.conv1.weight" in changed and "visual.mask_embedding" not in changed
        assert all(name.startswith("visual.") or name == "logit_scale" for name in changed)


def test_tuning_lowers_the_loss(tmp_path):
    clip, text = toy_clip()
    # Titles that the tower does not give by itself.
    pairs = colour_pairs(tmp_path, 12, titles=("water", "lava", "grass"))
    data = PairDataset(pairs, size=64, augment=False)
    recipe = TuningRecipe(parts="clip", epochs=1, batch_size=3, learning_rate=1e-9)
    first = tune(clip, text, data, recipe)
    last = tune(clip, text, data, TuningRecipe(parts="clip", epochs=4, batch_size=3, learning_rate=2e-4))
    assert last < first


def test_accuracy_counts(tmp_path):
    clip, _ = toy_clip()
    data = PairDataset(colour_pairs(tmp_path, 9), size=128, augment=False)
    _, tokenizer = load_clip("toybox-vit", pretrained="toybox")
    text = TextEmbedder(clip=clip, tokenizer=tokenizer, templates=TEMPLATES["single"], split_synonyms=False)
    names = ["plain red circle", "plain green circle", "plain blue circle"]
    results = masked_accuracy(clip, text, data, names, groups={"reds": [0]})
    # Three names: the true one is always among the best five; equally many pictures of each make both means the same.
    assert results["all"].top5 == 100 and results["all"].top1 == pytest.approx(results["all"].class_mean, abs=0.01)
    with pytest.raises(UserError, match="not among the 1 names"):
        masked_accuracy(clip, text, data, ["sky"], groups={})


def test_pairs_from_captions(tmp_path):
    """Every noun gets the proposal whose crop CLIP finds most like it."""
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    cfg = load_config(str(ROOT / "configs/toybox/ovseg.yaml"), ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""])
    torch.manual_seed(0)
    segmenter = Segmenter(build_from_config(cfg), cfg)
    with torch.no_grad():
        segmenter.model.generator.query_embed.weight.mul_(20)
    records = [{"file_name": str(tmp_path / "a.png"), "caption": "a photo of a plain red circle on grass"}]
    pairs = list(pairs_from_captions(records, segmenter, min_pixels=1))
    assert [pair.title for pair in pairs] == ["plain red circle", "grass"]
    painted = (pairs[0].image == np.array(BLANK)).all(axis=-1)
    assert pairs[0].image.shape[0] <= 64 and pairs[0].image.shape[1] <= 80 and not painted.all()


@pytest.mark.slow
def test_tool_end_to_end(tmp_path):
    def run(*args):
        command = [sys.executable, str(ROOT / "tools/train_mask_prompt.py"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    made = run("pairs", "--dataset", "toybox_train", "--limit", 12, "--output", tmp_path / "pairs")
    assert made.returncode == 0, made.stderr
    tuned = tmp_path / "tuned.safetensors"
    common = ["--clip", "toybox-vit", "--pretrained"]
    trained = run(
        "train", *common, "toybox", "--pairs", tmp_path / "pairs", "--mode", "both", "--epochs", 1, "--batch-size", 16,
        "--crop-size", 64, "--output", tuned,
    )  # fmt: skip
    assert trained.returncode == 0 and "clip: loss" in trained.stdout and "prompts: loss" in trained.stdout
    measured = run(
        "accuracy", *common, tuned, "--depth", 3, "--crop-size", 64, "--dataset", "toybox_val_open", "--limit", 6
    )
    assert measured.returncode == 0 and "unseen" in measured.stdout, measured.stderr


def test_merging_changes_the_image_tower_only():
    """The generator stays, prompts come along, and a CLIP with another text tower or width is refused."""
    system = {
        "clip.logit_scale": torch.tensor(1.0),
        "clip.visual.proj": torch.zeros(4, 2),
        "clip.text_projection": torch.ones(3, 2),
        "clip.visual.mask_embedding": torch.zeros(1, 5, 4),
        "generator.weight": torch.full((2,), 7.0),
    }
    tuned = {
        "logit_scale": torch.tensor(2.0),
        "visual.proj": torch.full((4, 2), 3.0),
        "text_projection": torch.ones(3, 2),
        "visual.mask_embedding": torch.ones(2, 5, 4),
    }
    merged = merge_clip(system, tuned)
    assert merged.keys() == system.keys()
    assert merged["clip.visual.proj"].eq(3).all() and merged["clip.visual.mask_embedding"].shape == (2, 5, 4)
    assert merged["generator.weight"] is system["generator.weight"] and merged["clip.logit_scale"] == 1
    tuned.pop("visual.mask_embedding")
    assert "clip.visual.mask_embedding" not in merge_clip(system, tuned)
    with pytest.raises(UserError, match=r"different architectures.*visual.proj"):
        merge_clip(system, tuned | {"visual.proj": torch.zeros(4, 3)})
    with pytest.raises(UserError, match=r"text towers differ.*text_projection"):
        merge_clip(system, tuned | {"text_projection": torch.zeros(3, 2)})
    with pytest.raises(UserError, match="holds no CLIP"):
        merge_clip({"generator.weight": torch.zeros(1)}, tuned)

"""Training-free systems: decisions and refinements against slow computations, whole models at tiny size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import TextTransformer

from twostage.checkpoint.checkpointer import load_weights
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.config import load_config
from twostage.data.views import evaluated_view
from twostage.errors import UserError
from twostage.inference import blocks
from twostage.inference.mosaic import Mosaic
from twostage.inference.pamr import Pamr
from twostage.inference.sliding import TileGrid
from twostage.systems.building import build_model
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, LazySimilarities, NamePrediction
from twostage.systems.training_free.dense_clip.refinement import denoise_prompts, operate_features, smooth_by_keys
from twostage.systems.training_free.dense_clip.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
CLASSES = torch.tensor([0, 0, 0, 1, 2, 2, 3])
SIZE = (24, 31)


def prediction(rule, *, seed=0, steps=0, scale=1.0):
    torch.manual_seed(seed)
    maps, guide = scale * torch.randn(7, 6, 8), torch.randn(3, 48, 64)
    mosaic = Mosaic(tiles=TileGrid.whole((48, 64)))
    return NamePrediction(
        images=[ImageMaps(maps, mosaic, guide)],
        classes=CLASSES,
        num_classes=4,
        rule=rule,
        pamr_steps=steps,
        pamr_dilations=(1, 2),
    )


def slowly(predicted):
    """(class probabilities, labels) with full volumes, in SCLIP's and NACLIP's order."""
    maps, _, guide = predicted.images[0]
    rule = predicted.rule
    for size in ((48, 64), SIZE):
        maps = F.interpolate(maps[None], size=size, mode="bilinear")[0]
    picture = F.interpolate(guide[None], size=SIZE, mode="bilinear")[0]
    maps = Pamr(picture, steps=predicted.pamr_steps, dilations=predicted.pamr_dilations)(maps)
    names = (rule.logit_scale * maps).softmax(0)
    classes = torch.stack([names[predicted.classes == c].amax(0) for c in range(predicted.num_classes)])
    if rule.area_threshold:
        areas = torch.bincount(classes.argmax(0).flatten(), minlength=4)
        for c in range(1, 4):
            if areas[c] <= rule.area_threshold * areas[1:].sum():
                classes[c] *= 0
    best, labels = classes.max(0)
    labels = torch.where(best < rule.probability_threshold, 0, labels)
    return (classes / classes.sum(0) if rule.renormalise else classes), labels


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "rule",
    [
        LabelRule(logit_scale=3.0),
        LabelRule(logit_scale=3.0, probability_threshold=0.5),
        LabelRule(logit_scale=2.0, area_threshold=0.3),
        LabelRule(logit_scale=2.0, area_threshold=0.3, probability_threshold=0.4, renormalise=True),
    ],
)
def test_labels_and_scores_equal_the_full_volume(rule, steps, monkeypatch):
    # Small blocks, so that running values meet over names and over rows.
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 2)
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 2 * 31 * 4 if not steps else 2 * 24 * 31)
    predicted = prediction(rule, steps=steps)
    scores, labels = slowly(predicted)
    assert len(labels.unique()) > 1
    torch.testing.assert_close(predicted.scores([SIZE])[0], scores, rtol=1e-4, atol=1e-6)
    assert float((predicted.label_maps([SIZE])[0] == labels).float().mean()) > 0.999
    best = predicted.top([SIZE], 3)[0]
    torch.testing.assert_close(best.scores, scores.topk(3, dim=0).values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores.gather(0, best.labels), best.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [LabelRule(logit_scale=20.0, probability_threshold=0.3, area_threshold=0.1)])
@pytest.mark.parametrize("steps", [0, 2])
def test_similarities_made_when_asked_for_equal_held_ones(rule, steps, monkeypatch):
    """In strips of a few rows and blocks of three names; never all names at once, nor all rows (but for PAMR)."""
    torch.manual_seed(4)
    names, features = F.normalize(torch.randn(7, 16), dim=1), F.normalize(torch.randn(16, 6, 8), dim=0)
    held = dataclasses.replace(
        prediction(rule, steps=steps),
        images=[prediction(rule).images[0]._replace(maps=torch.einsum("nd,dhw->nhw", names, features))],
    )
    expected, labels = held.scores([SIZE])[0], held.label_maps([SIZE])[0]
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 3)
    monkeypatch.setattr(blocks, "STRIP_FLOATS", 31 * 6 * 4 if steps == 0 else 3 * 24 * 31)
    lazy = LazySimilarities(names, features)
    asked = []
    made = LazySimilarities.__getitem__
    monkeypatch.setattr(LazySimilarities, "__getitem__", lambda s, part: (asked.append(part), made(s, part))[1])
    made_when_asked = dataclasses.replace(held, images=[held.images[0]._replace(maps=lazy)])
    assert torch.equal(made_when_asked.label_maps([SIZE])[0], labels)
    assert all(names.stop - names.start <= 3 for names, _ in asked)
    assert steps or max(rows.stop - rows.start for _, rows in asked) < 6
    torch.testing.assert_close(made_when_asked.scores([SIZE])[0], expected, rtol=1e-5, atol=1e-6)
    assert labels.unique().numel() > 2


def test_everything_uncertain_is_background():
    predicted = prediction(LabelRule(logit_scale=1.0, probability_threshold=0.9), scale=0.1)
    assert not predicted.label_maps([SIZE])[0].any()


def test_prompt_denoising_takes_out_what_is_nowhere_likely():
    maps = torch.tensor([[0.1, 0.0], [0.0, 0.1], [0.09, 0.0]]).view(3, 1, 2)
    # exp(10) : 1 : exp(9), so the third reaches 0.27 at most.
    out = denoise_prompts(maps, 0.5)
    assert torch.equal(out[:2], maps[:2]) and torch.equal(out[2], torch.full((1, 2), -100.0))


def test_key_smoothing_equals_the_written_out_form():
    torch.manual_seed(0)
    maps, keys = 0.01 * torch.randn(5, 3, 4), torch.randn(12, 6)
    p = (100 * maps).softmax(0).flatten(1).T
    k = keys / keys.norm(dim=0)
    similar = k @ k.T
    threshold = float(p.amax(1).median())
    wanted = torch.where((p.amax(1) < threshold)[:, None], similar @ p, p).T.view(5, 3, 4)
    torch.testing.assert_close(smooth_by_keys(maps, keys, threshold), wanted, rtol=1e-4, atol=1e-5)
    everywhere = smooth_by_keys(maps, keys, 1.0)
    torch.testing.assert_close(everywhere, (similar @ p).T.view(5, 3, 4), rtol=1e-4, atol=1e-5)


def test_feature_surgery_equals_elementwise_products():
    torch.manual_seed(0)
    features, text, class_token = torch.randn(6, 8), torch.randn(4, 8), torch.randn(8)
    weights = (2 * text @ class_token).softmax(0)
    weights = weights / weights.mean()
    products = features[:, None] * text * weights[:, None]
    wanted = (products - products.mean(1, keepdim=True)).sum(-1).T.view(4, 2, 3)
    ours = operate_features((text @ features.T).view(4, 2, 3), (text @ class_token).view(4, 1, 1))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def build(*opts):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.META_ARCHITECTURE", "TrainingFree"]
    overrides += ["MODEL.CLIP.NAME", "toybox-vit", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEMPLATES", "single"]
    torch.manual_seed(0)
    return build_model(load_config("", [*overrides, *opts])).eval()


def run(model, height=96, width=120, words=("sky", "grass, meadow", "blue star")):
    torch.manual_seed(1)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        images = model.preprocess([{"image": image}])
        (encoded,) = model.encode(images)
        return encoded, model.decode([encoded], model.embed_vocabulary(Vocabulary.from_words(list(words))))


@pytest.mark.parametrize("method", ["vanilla", "sclip", "naclip", "clearclip", "gem", "clip_surgery"])
def test_windows_of_one_batch_equal_windows_one_by_one(method):
    keys = [
        "MODEL.TRAINING_FREE.METHOD",
        method,
        "MODEL.TRAINING_FREE.SPLIT_DEPTH",
        "2",
        "TEST.SLIDING.ENABLED",
        "True",
    ]
    keys += ["TEST.SLIDING.TILE", "64", "TEST.SLIDING.STRIDE", "32"]
    model = build(*keys, "MODEL.TRAINING_FREE.FEATURE_SURGERY", str(method == "clip_surgery"))
    encoded, predicted = run(model)
    assert len(encoded.mosaic.tiles) == 6
    model.windows_per_batch = 1
    _, slow = run(model)
    torch.testing.assert_close(predicted.images[0].maps[:, :], slow.images[0].maps[:, :], rtol=1e-4, atol=1e-5)
    assert predicted.label_maps([(50, 60)])[0].shape == (50, 60)


def test_synonyms_by_maximum_and_background_words():
    model = build("MODEL.TRAINING_FREE.BACKGROUND_WORDS", "['sky','wall']")
    words = Vocabulary.from_words(["background", "sofa, couch", "cat"])
    text = model.embed_vocabulary(words)
    assert text.classes.tolist() == [0, 0, 1, 1, 2] and text.num_classes == 3
    torch.testing.assert_close(text.rows, model.text.embed_names(["sky", "wall", "sofa", "couch", "cat"]))
    model.synonyms_by_maximum = False
    mean = model.embed_vocabulary(words)
    assert mean.classes.tolist() == [0, 1, 2]
    torch.testing.assert_close(mean.rows[1], F.normalize(text.rows[2:4].mean(0), dim=-1), rtol=1e-4, atol=1e-5)


def test_images_of_different_size_do_not_see_each_other():
    model = build("MODEL.TRAINING_FREE.PAMR_STEPS", "2", "MODEL.TRAINING_FREE.METHOD", "naclip")
    torch.manual_seed(0)
    small, large = torch.rand(3, 64, 72) * 255, torch.rand(3, 96, 80) * 255
    batch = [{"image": i, "vocabulary": ["sky", "cat"], "height": 40, "width": 50} for i in (small, large)]
    with torch.no_grad():
        together = [entry["sem_seg_labels"] for entry in model(batch)]
        alone = [model([entry])[0]["sem_seg_labels"] for entry in batch]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_an_openai_state_dict_fills_the_model():
    model, source = build(), build()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    official = {name.removeprefix("clip."): value for name, value in source.state_dict().items()}
    official |= {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(9),
    }
    load_weights(model, official, "clip.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), source.parameters(), strict=True))


@pytest.mark.parametrize("variant", ["clip-vit-b-16", "clip-vit-l-14", "clip-rn50"])
def test_every_official_tensor_is_accounted_for(reference, variant):
    names = json.loads((reference / "trainingfree" / f"keys-{variant}.json").read_text())
    table = checkpoint_table()
    assert table.recognises(names)
    ours = table.to_ours({name: torch.zeros(()) for name in names}, source="keys")
    assert all(name.startswith("clip.") for name in ours) and sorted(table.to_official(ours)) == sorted(
        set(names) - {"input_resolution", "context_length", "vocab_size"}
    )


def test_contradictions_fail_at_start():
    with pytest.raises(UserError, match="LAST_BLOCK"):
        build("MODEL.TRAINING_FREE.METHOD", "gem", "MODEL.TRAINING_FREE.LAST_BLOCK", "full")
    with pytest.raises(UserError, match="KEY_SMOOTHING"):
        build("MODEL.TRAINING_FREE.KEY_SMOOTHING", "1.0", "TEST.SLIDING.ENABLED", "True")
    with pytest.raises(UserError, match="FEATURE_SURGERY"):
        build("MODEL.TRAINING_FREE.FEATURE_SURGERY", "True")
    with pytest.raises(UserError, match="PAMR_DILATIONS"):
        build("MODEL.TRAINING_FREE.PAMR_DILATIONS", "[0]")


def test_templates_are_the_published_ones(reference):
    lists = json.loads((reference / "trainingfree" / "classes.json").read_text())
    assert list(TEMPLATES["imagenet"]) == lists["templates_80"]
    assert list(TEMPLATES["imagenet_scene"]) == lists["templates_80"] + lists["templates_85_maskclip_extra"]


# ClearCLIP and the systems that borrow affinities have lists of their own (`tests/data/catalogue/test_published_names.py`).
PROTOCOLS = [
    path
    for path in sorted((ROOT / "configs" / "training_free").glob("*.yaml"))
    if not path.stem.startswith(("clearclip_", "clip_dinoiser_", "corrclip_", "proxyclip_", "talk2dino_", "trident_"))
]


@pytest.mark.parametrize("path", PROTOCOLS, ids=[path.stem for path in PROTOCOLS])
def test_protocols_ask_for_the_published_names(reference, path):
    lists = json.loads((reference / "trainingfree" / "classes.json").read_text())
    method, _, benchmark = path.stem.partition("_")
    cfg = load_config(str(path), ["MODEL.CLIP.TEXT_CACHE", ""])
    benchmark = {"cityscapes": "city_scapes"}.get(benchmark, benchmark)
    names = lists[f"maskclip_{benchmark}" if method == "maskclip" else benchmark]["names"]
    asked = Vocabulary.of(evaluated_view(cfg, cfg.DATASETS.TEST[0])).synonyms(split=True)
    assert [list(group) for group in asked] == [[name.strip() for name in group] for group in names]
    # Only class lists with a background may have a threshold.
    threshold = cfg.MODEL.TRAINING_FREE.PROBABILITY_THRESHOLD
    assert bool(threshold) == (lists[benchmark]["background_index"] == 0 and method != "maskclip")


@torch.no_grad()
def test_siglip_text_reads_every_position():
    """A tower without causal mask sees the padding, so nothing may be cut off."""
    torch.manual_seed(0)
    tower = TextTransformer(
        context_length=8,
        vocab_size=50,
        width=16,
        heads=2,
        layers=1,
        output_dim=12,
        no_causal_mask=True,
        pool_type="last",
    ).eval()

    def tokenizer(texts, context_length):
        rows = [[len(word) + 1 for word in text.split()][:context_length] for text in texts]
        return torch.tensor([row + [1] * (context_length - len(row)) for row in rows])

    clip = SimpleNamespace(text=tower)
    text = TextEmbedder(clip=clip, tokenizer=tokenizer, templates=("a {}",), split_synonyms=True)
    wanted = F.normalize(tower(tokenizer(["a cat", "a doggy"], 8)), dim=-1)
    torch.testing.assert_close(text.embed_names(["cat", "doggy"]), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="context of 8"):
        text.embed_names(["xx " * 9])

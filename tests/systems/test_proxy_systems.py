"""ProxyCLIP, CLIP-DINOiser and Talk2DINO at tiny size: windows, backgrounds, settings that contradict each other."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from twostage.api import find_config
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.config import load_config
from twostage.data.views import evaluated_view
from twostage.errors import UserError
from twostage.foundation import loading, vit
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.building import build_model
from twostage.systems.training_free.clip_dinoiser.guide import pool
from twostage.systems.training_free.clip_dinoiser.model import GuidedEmbeddings
from twostage.systems.training_free.talk2dino.head import clean_background
from twostage.vocabulary import Vocabulary

TINY = vit.VitShape(patch=4, table=5, width=12, depth=2, heads=3, rule="scale_by_shape", timm="tiny")
WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.TILE", "64", "TEST.SLIDING.STRIDE", "32")


def build(config: str, *opts: str):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]
    torch.manual_seed(0)
    return build_model(load_config(find_config(f"toybox/{config}"), [*overrides, *WINDOWS, *opts])).eval()


def picture(height: int = 64, width: int = 72) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def run(model):
    (encoded,) = model.encode(model.preprocess([{"image": picture()}]))
    return encoded, model.decode([encoded], model.embed_vocabulary(Vocabulary.from_words(["sky", "grass", "cat"])))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch):
    """ProxyCLIP on a random tower with patches of 4 pixels."""
    monkeypatch.setitem(loading.SHAPES, "dino_vits8", TINY)
    model = build("proxyclip", "MODEL.FOUNDATION.NAME", "dino_vits8", "MODEL.FOUNDATION.PRETRAINED", "")
    for value in model.foundation.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model


def test_proxyclip_has_the_resolution_of_its_affinities(proxy) -> None:
    encoded, predicted = run(proxy)
    assert len(encoded.mosaic.tiles) == 2
    assert encoded.features.shape[1:] == (16, 2 * 16)
    torch.testing.assert_close(encoded.features.norm(dim=0), torch.ones(16, 32))
    assert predicted.label_maps([(30, 40)])[0].shape == (30, 40)


def test_proxyclips_windows_do_not_see_each_other(proxy) -> None:
    encoded, _ = run(proxy)
    proxy.windows_per_batch = 1
    alone, _ = run(proxy)
    torch.testing.assert_close(encoded.features, alone.features, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_foundation_model_sees_the_picture_in_its_own_units(proxy) -> None:
    pixels = picture().float()[None]
    seen = []
    proxy.foundation.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    proxy.foundation_features(proxy.units(pixels), None)
    torch.testing.assert_close(seen[0], PixelUnits(loading.IMAGENET_STATISTICS)(pixels), rtol=1e-4, atol=1e-4)
    assert torch.equal(proxy.clip_units.mean.flatten(), torch.tensor(CLIP_STATISTICS.mean))


def test_without_a_foundation_model_clip_s_own_patches_are_compared() -> None:
    model = build("proxyclip")
    assert model.foundation is None and not model.checkpoint_tables()
    encoded, _ = run(model)
    patch = model.tower.patch_size[0]
    assert encoded.features.shape[1:] == (64 // patch, 2 * 64 // patch)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.TRAINING_FREE.METHOD", "naclip"], r"METHOD is 'naclip'.*attention of its own"),
        (["MODEL.FOUNDATION.NAME", "dino_vitb"], r"MODEL\.FOUNDATION\.NAME is 'dino_vitb'.*did you mean"),
        (["TEST.SLIDING.WHOLE_IMAGE", "True"], r"not defined for training-free"),
    ],
)
def test_settings_that_contradict(opts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(find_config("toybox/proxyclip"), opts)


def test_pooling_is_a_weighted_mean_of_what_correlates() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 3, 2, 3, generator=generator)
    correlations = torch.rand(1, 6, 6, generator=generator) * 2 - 1
    flat = features[0].flatten(1).T
    for patch, pooled in enumerate(pool(features, correlations, 0.2)[0].flatten(1).T):
        kept = [(float(c), f) for c, f in zip(correlations[0, patch], flat, strict=True) if c >= 0.2]
        wanted = sum((c * f for c, f in kept), torch.zeros(3)) / (sum(c for c, _ in kept) + 1e-6)
        torch.testing.assert_close(pooled, wanted)


@torch.no_grad()
def test_background_takes_what_is_uncertain_and_no_object() -> None:
    model = build("clip_dinoiser", "MODEL.CLIP_DINOISER.BACKGROUND", "True")
    encoded, predicted = run(model)
    text = model.embed_vocabulary(Vocabulary.from_words(["sky", "grass", "cat"]))
    plain = F.softmax(100 * torch.einsum("cd,dhw->chw", text, encoded.features), dim=0)
    model.delta = float(plain.amax(dim=0).median())
    half = torch.zeros_like(encoded.background)
    half[:, ::2] = True
    image = GuidedEmbeddings(encoded.features, encoded.mosaic, half)
    maps = model.decode([image], text).images[0].maps[:, :]
    taken = half & (plain.amax(dim=0) < model.delta)
    assert 0 < taken.sum() < half.sum(), "both kinds occur"
    torch.testing.assert_close(maps[1:], plain[1:])
    torch.testing.assert_close(maps[0], torch.where(taken, 1.0, plain[0]))
    model.delta = None
    assert torch.equal(model.decode([image], text).images[0].maps[:, :], model.probabilities(image, text))
    assert predicted.label_maps([(20, 30)])[0].max() <= 2


@torch.no_grad()
def test_dinoiser_pads_windows_in_black() -> None:
    """Zero padding before normalisation: the network sees the colour black, not CLIP's mean."""
    model = build("clip_dinoiser")
    seen = []
    model.read_windows = lambda windows, read=model.read_windows: seen.append(windows) or read(windows)
    model.tile = 0
    model.encode(model.preprocess([{"image": picture(60, 70)}]))
    black = model.units(torch.zeros(3, 1, 1)).flatten()
    assert seen[0].shape[-2] % model.tower.patch_size[0] == 0
    torch.testing.assert_close(seen[0][0, :, -1, -1], black)


def test_cleaning_is_the_published_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, features = torch.rand(2, 2, 3, generator=generator), torch.randn(5, 2, 3, generator=generator)
    attention = torch.randn(4, 6, generator=generator)
    text = F.normalize(torch.randn(2, 5, generator=generator), dim=-1)
    heads = [F.normalize((attention[h] * features.flatten(1)).mean(dim=1), dim=0) for h in range(4)]
    maps = []
    for row in text:
        weights = torch.stack([row @ head for head in heads]).softmax(dim=0)
        maps.append(sum(w * a for w, a in zip(weights, attention, strict=True)).softmax(dim=0))
    whole = torch.stack(maps).view(2, 2, 3)
    whole = (whole - whole.min()) / whole.max() * (scores.max() - scores.min()) + scores.min()
    torch.testing.assert_close(clean_background(scores, features, attention, text, 0.2), (scores + 0.2 * whole) / 1.2)


@torch.no_grad()
def test_the_background_has_a_constant_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading.SHAPES, "toybox_vits8", TINY)
    tiny = ("MODEL.FOUNDATION.PRETRAINED", "")
    model = build("talk2dino", *tiny, "MODEL.TALK2DINO.BACKGROUND_SCORE", "0.5", "MODEL.TALK2DINO.PAMR_STEPS", "1")
    (encoded,) = model.encode(model.preprocess([{"image": picture()}]))
    text = model.embed_vocabulary(Vocabulary.from_words(["background", "sky", "cat"]))
    assert text.background and text.rows.shape == (2, 12)
    maps = model.decode([encoded], text).similarities(0, (20, 30))
    torch.testing.assert_close(maps[0], torch.full((20, 30), 0.5))
    # Without a class of that name there is no background.
    words = model.embed_vocabulary(Vocabulary.from_words(["sky", "cat"]))
    assert not words.background and torch.equal(words.rows, text.rows)
    assert model.decode([encoded], words).num_classes == 2


def test_windows_resized_with_aligned_corners() -> None:
    maps = torch.rand(1, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    mosaic = Mosaic(tiles=TileGrid.whole((9, 10)), align_corners=True)
    wanted = F.interpolate(maps, size=(9, 10), mode="bilinear", align_corners=True)
    torch.testing.assert_close(mosaic.resampler((3, 4), (9, 10), "cpu")(maps), wanted)
    smaller = F.interpolate(wanted, size=(5, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mosaic.resampler((3, 4), (5, 7), "cpu")(maps), smaller)


# Our benchmark -> what CLIP-DINOiser's and Talk2DINO's harness calls it.
HARNESS = {
    "coco_object": "COCOObjectDataset",
    "coco_stuff": "COCOStuffDataset",
    "context59": "PascalContextDataset59",
    "context60": "PascalContextDataset",
    "voc20": "PascalVOCDataset20",
    "voc21": "PascalVOCDataset",
}
# System -> (its lists in classes.json, benchmarks that have one).
LISTS = {
    "proxyclip_dino": ("proxyclip", (*HARNESS, "ade20k", "cityscapes")),
    "trident": ("proxyclip", (*HARNESS, "ade20k", "cityscapes")),
    "corrclip": ("corrclip", (*HARNESS, "ade20k", "cityscapes")),
    "proxyclip_dinov2": ("proxyclip", (*HARNESS, "ade20k", "cityscapes")),
    "clip_dinoiser": ("dinoiser", tuple(HARNESS)),
    "talk2dino": ("talk2dino", ("coco_object", "voc20")),
}


@pytest.mark.parametrize(
    ("system", "benchmark"), [(system, name) for system, (_, names) in LISTS.items() for name in names]
)
def test_protocols_ask_for_the_published_names(reference, system: str, benchmark: str) -> None:
    key, _ = LISTS[system]
    lists = json.loads((reference / "proxy" / "classes.json").read_text())[key]
    published = lists[
        HARNESS[benchmark] if key not in ("proxyclip", "corrclip") else benchmark.replace("cityscapes", "city_scapes")
    ]
    cfg = load_config(find_config(f"training_free/{system}_{benchmark}"), ["MODEL.CLIP.TEXT_CACHE", ""])
    asked = Vocabulary.of(evaluated_view(cfg, cfg.DATASETS.TEST[0])).synonyms(split=True)
    wanted = [[entry] if isinstance(entry, str) else entry for entry in published]
    assert [list(group) for group in asked] == [[name.strip() for name in group] for group in wanted]

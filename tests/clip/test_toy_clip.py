"""The tiny CLIPs: tokenizer, losses, and what the shipped weights can do on pictures they have never seen."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from twostage.clip.loading import load_clip
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.towers.vit import embed_image, run_blocks, value_path_features
from twostage.clip.toybox import training as toybox_training
from twostage.clip.toybox.merges import caption_words, merges_for, write_merges
from twostage.clip.toybox.models import MERGES_FILE, register_toybox_models, toybox_tokenizer
from twostage.clip.toybox.towers import encode_captions, restricted_class_tokens, value_path, vit_features
from twostage.data.toybox import dataset
from twostage.data.toybox.captioned import NAMES
from twostage.evaluation import clip_probe

MODELS = ("toybox-vit", "toybox-convnext")
# Those whose weights are in twostage/clip/weights.
SHIPPED = MODELS


@pytest.fixture(scope="module", params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Any:
    return load_clip(request.param, pretrained="toybox")[0]


@pytest.fixture(scope="module")
def vit() -> Any:
    return load_clip("toybox-vit", pretrained="toybox")[0]


@pytest.fixture(scope="module")
def scenes() -> list:
    return [scene for _, scene in dataset.render(dataset.plan_scenes(77, "open", 40), 77, "open")]


@pytest.fixture(autouse=True)
def _render_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are rendered in this process: starting others takes longer than the few pictures."""

    def render(seed: int, count: int, side: int, **_: Any) -> toybox_training.Pool:
        return toybox_training._render_chunk((seed, 0, count, side, False))

    monkeypatch.setattr(clip_probe, "render_pool", render)
    monkeypatch.setattr(toybox_training, "render_pool", render)


def test_every_caption_word_is_one_token() -> None:
    tokenizer = toybox_tokenizer()
    assert [word for word in caption_words() if len(tokenizer.encode(word)) != 1] == []


def test_tokenizer_round_trip_and_end_of_text() -> None:
    tokenizer = toybox_tokenizer()
    text = "a striped blue star on grass , zebra"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == text
    tokens = tokenizer(["zebra", text])
    assert tokens.shape == (2, 77)
    assert tokens.max() == tokenizer.eot_token_id == tokenizer.vocab_size - 1


def test_merges_are_written_as_shipped(tmp_path: Path) -> None:
    size = write_merges(tmp_path / "merges.gz")
    # Pythons write different words about the system into the header.
    written, shipped = (gzip.decompress(path.read_bytes()) for path in (tmp_path / "merges.gz", MERGES_FILE))
    assert written == shipped
    register_toybox_models()
    for name in MODELS:
        assert open_clip.get_model_config(name)["text_cfg"]["vocab_size"] == size


def test_merges_by_hand() -> None:
    # "cat" gives c+a, ca+t; "at" can't use them.
    assert merges_for(["cat", "at"]) == [("c", "a"), ("ca", "t</w>"), ("a", "t</w>")]


def test_registering_twice_is_harmless() -> None:
    register_toybox_models()
    register_toybox_models()
    assert set(MODELS) <= set(open_clip.list_models())


def test_short_captions_encode_as_full_ones(vit: Any) -> None:
    texts = ["a striped blue star.", "There is a large red heart in the scene."]
    with torch.no_grad():
        full = F.normalize(vit.encode_text(toybox_tokenizer()(texts)), dim=-1)
        torch.testing.assert_close(encode_captions(vit, texts), full, atol=1e-5, rtol=1e-4)


def test_training_features_are_those_of_the_model(vit: Any) -> None:
    """On a full canvas the training's forward pass is open_clip's own, and its dense features the value path."""
    images = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        token, dense = vit_features(vit.visual, images, False, torch.Generator())
        torch.testing.assert_close(token, vit.visual(images), atol=1e-4, rtol=1e-3)
        reference = value_path_features(vit.visual, images).flatten(2).transpose(1, 2)
        torch.testing.assert_close(dense, reference, atol=1e-4, rtol=1e-3)


def test_unrestricted_shadow_equals_the_class_token(vit: Any) -> None:
    """A copy that sees all patches and itself, and not the plain class token, is the class token."""
    blocks = list(vit.visual.transformer.resblocks)
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens, _ = run_blocks(blocks[:-2], embed_image(vit.visual, images))
        whole, _ = run_blocks(blocks[-2:], tokens)
        inside = torch.ones(1, 3, 256, dtype=torch.bool)
        inside[:, 2, 128:] = False
        shadow, before_last = restricted_class_tokens(blocks[-2:], tokens.x, inside)
        for region in (0, 1):
            torch.testing.assert_close(shadow[:, region], whole.x[:, 0], atol=1e-4, rtol=1e-3)
        assert (shadow[:, 2] - whole.x[:, 0]).abs().max() > 1e-3
        assert value_path(vit.visual, before_last).shape == (1, 256, 128)


def test_mosaic_keeps_pictures_apart(vit: Any) -> None:
    """Dense features come back per picture and in its own order: a picture's own match is the best of the four."""
    pool = toybox_training._render_chunk((5, 0, 4, 64, False))
    images = PixelUnits(CLIP_STATISTICS)(torch.from_numpy(pool.images.astype(np.float32)).permute(0, 3, 1, 2))
    with torch.no_grad():
        _, alone = vit_features(vit.visual, images, False, torch.Generator().manual_seed(0))
        token, dense = vit_features(vit.visual, images, True, torch.Generator().manual_seed(0))
    assert token.shape == (4, 128)
    similarity = torch.einsum("ipd,jpd->ij", F.normalize(alone, dim=-1), F.normalize(dense, dim=-1))
    assert similarity.argmax(1).tolist() == [0, 1, 2, 3]


def test_caption_targets_by_hand() -> None:
    exact, star, grass = (NAMES.index(name) for name in ("striped blue star", "star", "grass"))
    blue = NAMES.index("blue star")
    striped = NAMES.index("striped star")
    mentions, implied = torch.zeros(3, len(NAMES)), torch.zeros(3, len(NAMES))
    mentions[0, [exact, grass]] = 1  # "striped blue star on grass"
    mentions[1, star] = 1  # "star", said of a striped blue star
    mentions[2, grass] = 1
    implied[0, [exact, blue, striped, star, grass]] = 1
    implied[1, [exact, blue, striped, star]] = 1
    implied[2, grass] = 1
    expected = torch.tensor([[True, True, True], [False, True, False], [False, False, True]])
    assert torch.equal(toybox_training.caption_targets(mentions, implied), expected)


def test_contrastive_loss_by_hand() -> None:
    eye = torch.eye(3, dtype=torch.bool)
    assert toybox_training.contrastive_loss(torch.zeros(3, 3), eye).item() == pytest.approx(math.log(3))
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    expected = math.log(1 + math.exp(-2))
    assert toybox_training.contrastive_loss(logits, eye[:2, :2]).item() == pytest.approx(expected)
    # Two positives in a row: each gets half.
    both = torch.ones(2, 2, dtype=torch.bool)
    assert toybox_training.contrastive_loss(logits, both).item() == pytest.approx(expected + 1)


def test_pooled_similarity_of_equal_patches_is_their_cosine() -> None:
    text = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    dense = 5 * text[:2, None].expand(2, 6, 8)
    torch.testing.assert_close(toybox_training.pooled_similarity(dense, text, 0.1), text[:2] @ text.T)


def _mentions(*rows: tuple[str, ...]) -> torch.Tensor:
    mentions = torch.zeros(len(rows), len(NAMES))
    for row, names in enumerate(rows):
        mentions[row, [NAMES.index(name) for name in names]] = 1
    return mentions


def test_name_targets_by_hand() -> None:
    star, ring, grass = (NAMES.index(name) for name in ("striped blue star", "plain red ring", "grass"))
    target, ignored = toybox_training.name_targets(
        _mentions(("striped blue star", "star", "grass"), ("grass",), ("striped blue star", "plain red ring"))
    )
    assert target[0].nonzero().flatten().tolist() == [star] and target[0, star] == 1
    assert ignored[0].nonzero().flatten().tolist() == [grass], "what lies behind is neither right nor wrong"
    assert target[1, grass] == 1 and not ignored[1].any()
    assert target[2, [star, ring]].tolist() == [0.5, 0.5]


def test_name_loss_does_not_count_what_is_ignored() -> None:
    mentions = _mentions(("striped blue star", "grass"))
    logits = torch.zeros(1, len(toybox_training.EXACT_NAMES))
    assert toybox_training.name_loss(logits, mentions).item() == pytest.approx(math.log(logits.shape[1] - 1))
    logits[0, NAMES.index("grass")] = 50.0
    assert toybox_training.name_loss(logits, mentions).item() == pytest.approx(math.log(logits.shape[1] - 1))


def test_word_targets_by_hand() -> None:
    words = toybox_training.WORDS
    assert len(words) == 4 + 8 + 12 + 14
    targets = toybox_training.word_targets(
        _mentions(("striped blue star", "grass"), ("striped blue star", "plain blue ring"))
    )
    assert {words[i]: round(float(targets[0, i]), 4) for i in targets[0].nonzero().flatten()} == {
        "striped": 0.3333,
        "blue": 0.3333,
        "star": 0.3333,
    }
    assert targets[1, words.index("blue")].item() == pytest.approx(1 / 3)
    assert targets[1, words.index("ring")].item() == pytest.approx(1 / 6)


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss_and_repeats(name: str) -> None:
    recipe = toybox_training.ToyClipRecipe(
        steps=8, batch_size=8, pool_size=8, side=32, warmup=1, mosaic_every=3 if name == "toybox-vit" else 0
    )
    head = torch.nn.Linear(128, len(toybox_training.WORDS))

    def caption_loss(model: Any) -> float:
        pool = toybox_training._render_chunk((0, 0, 8, 40, False))
        batch = toybox_training.sample_batch(pool, np.random.default_rng(0), np.arange(8), 32)
        generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        return toybox_training.training_losses(model, head, batch, recipe, 0, generator, rng)["captions"].item()

    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = load_clip(name)[0]
        start = caption_loss(model)
        toybox_training.train(model, recipe)
        assert caption_loss(model) < start - 0.1
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


def test_shipped_weights_recognise_fresh_pictures(shipped: Any) -> None:
    """Chance: 0.25 for the attribute, 0.125 for the colour, 0.003 for all three words."""
    accuracy = clip_probe.zero_shot_accuracy(shipped, seed=4321, count=150)
    assert accuracy["colour"] > 0.8
    assert accuracy["attribute"] > 0.5
    assert accuracy["things"] > 0.05


def test_dense_baseline_is_above_chance_on_things(vit: Any, scenes: list) -> None:
    """Chance is about 2 %."""
    groups = clip_probe.dense_baseline(vit, scenes)
    assert groups.unseen_things > 8
    assert groups.seen_things > 8
    assert groups.seen_stuff > 40


def test_true_regions_are_recognised(vit: Any, scenes: list) -> None:
    groups = clip_probe.region_accuracy(vit, scenes, blocks=3)
    assert groups.unseen > 50
    assert groups.unseen > clip_probe.dense_baseline(vit, scenes).unseen

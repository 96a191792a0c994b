"""CAT-Seg's own parts against their published forms."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from conformance.case import Case
from conformance.comparison import format_comparisons
from conformance.systems.catseg import published_config
from conformance.systems.catseg_training import check_counts
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from twostage.config import load_config
from twostage.errors import UserError
from twostage.predictions.dense import DensePrediction
from twostage.systems.building import build_model
from twostage.systems.one_stage.catseg import model as catseg_model
from twostage.systems.one_stage.catseg.weights import checkpoint_table
from twostage.systems.one_stage.cost_aggregation import layer as layer_module
from twostage.systems.one_stage.cost_aggregation.class_attention import LinearClassAggregation
from twostage.systems.one_stage.cost_aggregation.spatial_attention import SpatialAggregation, WindowAttention
from twostage.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
NAMES = ["grass", "sky", "star, asterisk", "ring", "blue dot"]
TINY = {
    "MODEL.CLIP.PRETRAINED": "",
    "MODEL.CLIP.TEXT_CACHE": "",
    "MODEL.CLIP.TEMPLATES": "single",
    "MODEL.DEVICE": "cpu",
    "MODEL.CATSEG.RESOLUTION": "64",
    "MODEL.CATSEG.WINDOW": "4",
    "MODEL.CATSEG.CHANNELS": "16",
    "MODEL.CATSEG.GUIDANCE_CHANNELS": "8",
    "MODEL.CATSEG.HEADS": "2",
    "MODEL.CATSEG.CLASS_SLOTS": "9",
    "MODEL.CATSEG.DECODER_CHANNELS": "[16, 16]",
    "MODEL.CATSEG.DECODER_GUIDANCE_CHANNELS": "[4, 4]",
    "MODEL.CATSEG.TAP_CHANNELS": "[8, 8]",
}
SLIDING = {
    "TEST.SLIDING.ENABLED": "True",
    "TEST.SLIDING.CANVAS": "96",
    "TEST.SLIDING.TILE": "64",
    "TEST.SLIDING.STRIDE": "32",
    "TEST.SLIDING.WHOLE_IMAGE": "True",
}


def tiny_config(**changes):
    settings = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    opts = [part for pair in settings.items() for part in pair]
    return load_config(str(ROOT / "configs" / "toybox" / "catseg.yaml"), opts)


def tiny_model(**changes):
    torch.manual_seed(0)
    return build_model(tiny_config(**changes)).eval()


def batch(count=1, size=(80, 56), names=NAMES):
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, len(names), size),
            "vocabulary": list(names),
        }
        for _ in range(count)
    ]


def test_window_attention_equals_attention_window_by_window():
    """The published form: concatenated guidance, cyclic shift, one masked attention per window."""
    torch.manual_seed(0)
    side, shift, heads = 4, 2, 2
    attention = WindowAttention(channels=8, guidance_channels=6, heads=heads, window=side, shift=shift)
    x, guidance = torch.randn(1, 3, 8, 8, 8), torch.randn(1, 1, 8, 8, 6)
    ours = attention(x, guidance)
    region = torch.zeros(8, 8)
    for number, rows in enumerate((slice(0, 4), slice(4, 6), slice(6, 8))):
        for other, columns in enumerate((slice(0, 4), slice(4, 6), slice(6, 8))):
            region[rows, columns] = 3 * number + other
    joined = torch.cat([x, guidance.expand(-1, 3, -1, -1, -1)], dim=-1).roll((-shift, -shift), dims=(2, 3))
    out = torch.empty(1, 3, 8, 8, 8)
    for top in (0, 4):
        for left in (0, 4):
            window = joined[:, :, top : top + 4, left : left + 4].flatten(2, 3)
            own = region[top : top + 4, left : left + 4].flatten()
            q, k, v = attention.q(window), attention.k(window), attention.v(window[..., :8])
            q, k, v = (part.unflatten(-1, (heads, 4)).transpose(2, 3) for part in (q, k, v))
            logits = q @ k.transpose(-1, -2) / 4**0.5 - 100.0 * (own[:, None] != own)
            attended = (logits.softmax(-1) @ v).transpose(2, 3).flatten(3)
            out[:, :, top : top + 4, left : left + 4] = attention.proj(attended).unflatten(2, (4, 4))
    torch.testing.assert_close(ours, out.roll((shift, shift), dims=(2, 3)), rtol=1e-4, atol=1e-5)


def test_spatial_aggregation_keeps_classes_apart():
    torch.manual_seed(0)
    spatial = SpatialAggregation(channels=8, guidance_channels=6, heads=2, window=4)
    x, guidance = torch.randn(2, 3, 8, 8, 8), spatial.norm_guidance(torch.randn(2, 6, 8, 8))
    together = spatial(x, guidance)
    torch.testing.assert_close(together[:, 1:2], spatial(x[:, 1:2], guidance), rtol=1e-4, atol=1e-5)


def test_padding_classes_equal_real_rows():
    """The published form: the class axis is filled up with padding tokens, then cut off again."""
    torch.manual_seed(0)
    settings = {"channels": 8, "heads": 2, "train_pooling": 1, "test_pooling": 1, "guidance_channels": 6}
    padded = LinearClassAggregation(**settings, slots=7).eval()
    nn.init.normal_(padded.padding_token)
    nn.init.normal_(padded.padding_guidance)
    plain = LinearClassAggregation(**settings).eval()
    plain.load_state_dict({k: v for k, v in padded.state_dict().items() if not k.startswith("padding")})
    x, guidance = torch.randn(2, 4, 8, 3, 3), torch.randn(2, 4, 6)
    (ours,) = padded.aggregate([x], [guidance])
    rows = padded.padding_token[..., None, None].expand(2, 3, 8, 3, 3)
    filled = torch.cat([guidance, padded.padding_guidance.expand(2, 3, 6)], dim=1)
    (wanted,) = plain.aggregate([torch.cat([x, rows], dim=1)], [filled])
    torch.testing.assert_close(ours, wanted[:, :4], rtol=1e-4, atol=1e-5)
    (without,) = plain.aggregate([x], [guidance])
    assert (without - ours).abs().max() > 1e-3


@pytest.mark.parametrize("sliding", [False, True])
def test_class_blocks_change_nothing(monkeypatch, sliding):
    model = tiny_model(**({k.replace(".", "__"): v for k, v in SLIDING.items()} if sliding else {}))
    with torch.no_grad():
        whole = model(batch(2))
        monkeypatch.setattr(layer_module, "_MAPS", 2)
        blocks = model(batch(2))
        scores = model.predict(batch(2)).scores([(80, 56)] * 2)
    for a, b, c in zip(whole, blocks, scores, strict=True):
        assert a["sem_seg_labels"].shape == (80, 56)
        assert (a["sem_seg_labels"] == b["sem_seg_labels"]).float().mean() > 0.99
        assert (a["sem_seg_labels"] == c.argmax(0)).float().mean() > 0.99


def test_views_come_one_after_the_other():
    """In evaluation, so that no layer holds all classes of more than one view; logits are those of all views at once."""
    sliding = {k.replace(".", "__"): v for k, v in SLIDING.items()}
    model = tiny_model(**sliding, MODEL__CATSEG__POOLING="1", MODEL__CATSEG__TEST_POOLING="1")
    entries = batch()
    seen = []
    for layer in model.aggregator.layers:
        layer.register_forward_hook(lambda _m, args, _o: seen.append({len(block) for block in args[0]}))
    with torch.no_grad():
        encoded = model.encode(model.preprocess(entries))
        text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
        views = len(encoded.embeddings)
        one_by_one = model.class_scores(encoded, text).logits
        assert views == 5 and seen == [{1}] * views * len(model.aggregator.layers)
        together = model.train().class_scores(encoded, text).logits
    assert seen[-1] == {views}
    torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-5)


def test_class_order_does_not_matter():
    model = tiny_model(TEST__SEMANTIC_OUTPUT="scores")
    with torch.no_grad():
        scores = model(batch())[0]["sem_seg"]
        turned = model(batch(names=NAMES[::-1]))[0]["sem_seg"]
    torch.testing.assert_close(turned.flip(0), scores, rtol=1e-3, atol=1e-5)


V1 = {
    "MODEL__CATSEG__BACKBONE__ENABLED": "True",
    "MODEL__CATSEG__BACKBONE__RESOLUTION": "128",
    "MODEL__CATSEG__LAST_BLOCK_RESIDUAL": "own",
    "MODEL__CATSEG__CLASS_SLOTS": "0",
    "MODEL__CLIP__FINETUNE": "visual_attention",
    "MODEL__CLIP__FIRST_SYNONYM": "False",
    "MODEL__BACKBONE__NAME": "swin",
    "MODEL__SWIN__EMBED_DIM": "8",
    "MODEL__SWIN__DEPTHS": "[1, 1, 2]",
    "MODEL__SWIN__HEADS": "[1, 2, 2]",
    "MODEL__SWIN__OUT_FEATURES": "['res2', 'res3', 'res4']",
}


@pytest.mark.parametrize("multiplier", [0.0, 0.01])
def test_v1_takes_its_guidance_from_a_backbone(multiplier):
    model = tiny_model(**V1, SOLVER__BACKBONE_MULTIPLIER=str(multiplier))
    # A toy CLIP of patch 8 on 64 px has the grid of the backbone's stride 16 on 128 px.
    model.train()(batch(1, size=(64, 64)))["loss_sem_seg"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    backbone = {name for name in trained if name.startswith("guide.backbone.")}
    assert bool(backbone) == (multiplier > 0) and not any(".norm0." in name for name in backbone)
    assert "clip.visual.positional_embedding" in trained and not any(n.startswith("clip.transformer") for n in trained)
    back = checkpoint_table(has_backbone=True).to_ours(
        checkpoint_table(has_backbone=True).to_official(model.state_dict()), source="tiny"
    )
    assert back.keys() == model.state_dict().keys()


def test_v1_backbone_sees_its_own_statistics():
    """Pixels normalised for the backbone, padding zero."""
    model = tiny_model(**V1)
    entries = batch(1, size=(60, 50))
    seen = {}
    model.guide.backbone.register_forward_hook(lambda _m, args, _o: seen.update(views=args[0]))
    with torch.no_grad():
        model.encode(model.preprocess(entries))
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    wanted = (entries[0]["image"] - mean[:, None, None]) / std[:, None, None]
    wanted = F.interpolate(F.pad(wanted, (0, 6, 0, 4))[None], size=(128, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen["views"], wanted, rtol=1e-4, atol=1e-4)


def test_images_of_a_batch_do_not_touch_each_other():
    model = tiny_model(TEST__SEMANTIC_OUTPUT="scores", **{k.replace(".", "__"): v for k, v in SLIDING.items()})
    pair = batch(1) + [entry | {"image": entry["image"].flip(1)} for entry in batch(1, size=(48, 72))]
    with torch.no_grad():
        both, alone = model(pair), model(pair[1:])
    torch.testing.assert_close(both[1]["sem_seg"], alone[0]["sem_seg"], rtol=1e-3, atol=1e-5)


def test_more_classes_than_slots_are_the_best_of_each_view():
    model = tiny_model(MODEL__CATSEG__CLASS_SLOTS="3")
    names = ["grass", "sky", "star", "ring", "dot"]
    with torch.no_grad():
        images = model.preprocess(batch())
        encoded, text = model.encode(images), model.text(Vocabulary.from_words(names))
        scores = model.class_scores(encoded, text)
        cosine = torch.einsum("dp,tkd->tkp", F.normalize(encoded.embeddings[0].flatten(1), dim=0), text)
        best = cosine.flatten(1).amax(1).topk(3).indices.sort().values
        assert torch.equal(scores.kept[0], best)
        alone = model.class_scores(encoded, text[best])
        torch.testing.assert_close(scores.logits, alone.logits, rtol=1e-4, atol=1e-5)
        prediction = model.decode(encoded, text)
    assert isinstance(prediction, DensePrediction) and prediction.fill < 1e-40
    assert set(prediction.label_maps([(80, 56)])[0].unique().tolist()) <= set(best.tolist())


def test_early_rejection_keeps_classes_that_some_pixel_ranks_high():
    model = tiny_model(TEST__EARLY_REJECTION__ENABLED="True", TEST__EARLY_REJECTION__TOP_K="1")
    cost = torch.zeros(2, 40, 1, 1, 2)
    for view, pixel, best in ((0, 0, 31), (0, 1, 7), (1, 0, 31), (1, 1, 12)):
        cost[view, best, 0, 0, pixel] = 1.0
    assert model.kept_classes(cost).tolist() == [[7, 12, 31]] * 2
    # More survivors than slots: the best of each view.
    model.class_slots = 2
    assert model.kept_classes(cost).tolist() == [[7, 31], [12, 31]]
    # Training sees all classes.
    model.class_slots = 40
    assert model.train().kept_classes(cost) is None
    every = tiny_model(TEST__EARLY_REJECTION__ENABLED="True", TEST__EARLY_REJECTION__TOP_K="5")
    plain = tiny_model()
    with torch.no_grad():
        ours, wanted_scores = (model.predict(batch()).scores([(80, 56)])[0] for model in (every, plain))
    torch.testing.assert_close(ours, wanted_scores)


def test_training_reaches_what_is_trained():
    model = tiny_model().train()
    losses = model(batch(2, size=(64, 64)))
    assert list(losses) == ["loss_sem_seg"]
    losses["loss_sem_seg"].backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    zero = [name for name, p in trained.items() if not p.grad.any()]
    # Nothing reads the queries of CLIP's last image block.
    assert zero == ["clip.visual.transformer.resblocks.4.attn.q_proj_weight"]
    clip = {name for name in trained if name.startswith("clip.")}
    assert len(clip) == 2 * (5 + 3) and all(".attn." in name for name in clip)


def test_ignored_pixels_are_negatives():
    model = tiny_model().train()
    entries = batch(1, size=(64, 64))
    entries[0]["sem_seg"][:] = 255
    with torch.no_grad():
        loss = model(entries)["loss_sem_seg"]
        scores = model.class_scores(
            model.encode(model.preprocess(entries)),
            model.embed_vocabulary(Vocabulary.from_words(NAMES)),
        )
        logits = F.interpolate(scores.logits, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss, F.softplus(logits).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"MODEL__CATSEG__AGGREGATE": "feature"},
        {"MODEL__CATSEG__SPATIAL_AGGREGATION": "False"},
        {"MODEL__CATSEG__CLASS_AGGREGATION": "False"},
        {"MODEL__CATSEG__EMBEDDING_GUIDANCE": "False"},
    ],
)
def test_ablations_run_and_differ(change):
    parent, model = tiny_model(), tiny_model(**change)
    assert set(model.state_dict()) != set(parent.state_dict())
    model.train()(batch(1, size=(64, 64)))["loss_sem_seg"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        assert model.eval()(batch())[0]["sem_seg_labels"].shape == (80, 56)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL__CATSEG__TAPS", "[2, 5]", "1 to 4"),
        ("MODEL__CATSEG__WINDOW", "5", "MODEL.CATSEG.WINDOW 5"),
        ("MODEL__CATSEG__HEADS", "3", "multiple of MODEL.CATSEG.HEADS"),
        ("TEST__SLIDING__ENABLED", "True", "TEST.SLIDING.CANVAS"),
        ("MODEL__CLIP__NAME", "toybox-convnext", "CAT-Seg needs a CLIP with a plain ViT"),
    ],
)
def test_bad_values(key, value, said):
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        tiny_model(**{key: value})


@pytest.mark.parametrize("variant", ["b", "l", "v1-r101", "v1-swinb"])
def test_every_official_tensor_is_accounted_for(reference, variant):
    keys = json.loads((reference / "catseg" / f"keys-{variant}.json").read_text())
    tensors = {name: torch.zeros(()) for name in keys}
    table, other = checkpoint_table(has_backbone=False), checkpoint_table(has_backbone=True)
    if variant.startswith("v1"):
        table, other = other, table
    assert table.recognises(tensors) and not other.recognises(tensors)
    kept = table.to_official(table.to_ours(tensors, source="keys"))
    assert sorted(kept) == sorted(name for name in keys if not name.endswith("attn_mask"))


@pytest.mark.parametrize("variant", ["b", "l", "v1-r101", "v1-swinb"])
def test_full_size_parameters_are_the_published_ones(reference, variant):
    """Names, shapes, what is trained and how; on the meta device, so that nothing is computed or held."""
    case = Case.read(reference / "catseg" / f"trainable-{variant}.json")
    keys = json.loads((reference / "catseg" / f"keys-{variant}.json").read_text())
    cfg = published_config(case)
    with torch.device("meta"), mock.patch.object(nn.Module, "to", lambda self, *_args, **_kwargs: self):
        model = META_ARCH_REGISTRY.get("CATSeg")(cfg)
    official = model.checkpoint_table().to_official(model.state_dict())
    wanted = {name: key["shape"] for name, key in keys.items() if not name.endswith("block_2.attn_mask")}
    assert {name: list(tensor.shape) for name, tensor in official.items()} == wanted
    rows = check_counts(model, case, cfg)
    assert len(rows) == 3 and all(row.passed for row in rows), format_comparisons(rows)


def test_official_names_of_a_tiny_model_come_back():
    model = tiny_model()
    official = checkpoint_table(has_backbone=False).to_official(model.state_dict())
    assert checkpoint_table(has_backbone=False).recognises(official)
    back = checkpoint_table(has_backbone=False).to_ours(official, source="tiny")
    assert back.keys() == model.state_dict().keys()


def test_best_classes_by_their_highest_cost():
    cost = torch.zeros(2, 3, 1, 1, 2)
    cost[0, 1, 0, 0, 1], cost[0, 2, 0, 0, 0] = 5.0, 1.0
    cost[1, 0, 0, 0, 0], cost[1, 2, 0, 0, 1] = 5.0, 1.0
    assert catseg_model.best_classes(cost, 2).tolist() == [[1, 2], [0, 2]]
    assert catseg_model.best_classes(cost, 3) is None and catseg_model.best_classes(cost, 0) is None

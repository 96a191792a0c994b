"""SED: the decoder's cheaper forms against plain ones, early rejection, the model as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conformance.optimizer import trainable_table

from twostage.batch import batch_vocabulary, output_sizes
from twostage.config import load_config
from twostage.errors import UserError
from twostage.inference.early_rejection import EarlyRejection
from twostage.systems.building import build_model
from twostage.systems.cards import recognise_checkpoint
from twostage.systems.one_stage.cost_aggregation import blocks
from twostage.systems.one_stage.cost_aggregation.blocks import HeldBlocks
from twostage.systems.one_stage.cost_aggregation.class_attention import LinearClassAggregation
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.sed.decoder import CostGuidance, ImageFeatures, SEDDecoder, VisualGuidance
from twostage.systems.one_stage.sed.model import SED
from twostage.systems.one_stage.sed.stage import DecoderStage, SpatialAggregation
from twostage.systems.one_stage.sed.weights import checkpoint_table

ROOT = Path(__file__).parents[2]
TEMPLATES, SIZE = 5, 12
CHANNELS, GUIDANCE, BACKBONE = [16, 8, 8, 4], [8, 4, 4], [6, 5, 4]


def decoder(class_block=4, pooling=1, templates=TEMPLATES, channels=CHANNELS):
    torch.manual_seed(0)
    stages = [
        DecoderStage(
            spatial=SpatialAggregation(channels=c, kernel_size=5),
            classes=LinearClassAggregation(channels=c, heads=2, train_pooling=pooling, test_pooling=1),
            fusion=UpsamplingFusion(in_channels=c, out_channels=o, visual_channels=g, cost_channels=g),
        )
        for c, o, g in zip(channels[:-1], channels[1:], GUIDANCE, strict=True)
    ]
    model = SEDDecoder(
        cost_channels=templates,
        stages=stages,
        channels=channels,
        visual_guidance=VisualGuidance(in_channels=BACKBONE, out_channels=GUIDANCE),
        cost_guidance=CostGuidance(cost_channels=templates, channels=GUIDANCE),
        class_block=class_block,
    )
    return model.eval()


def inputs(model, classes=11, images=1):
    torch.manual_seed(1)
    backbone = [torch.randn(images, c, 3 * 2**i, 4 * 2**i) for i, c in enumerate(BACKBONE, start=1)]
    features = ImageFeatures(torch.randn(images, SIZE, 3, 4), model.visual_guidance(backbone))
    return features, torch.randn(classes, TEMPLATES, SIZE)


def test_folded_first_head_equals_embedding_and_head():
    model = decoder()
    features, text = inputs(model)
    with torch.no_grad():
        folded = torch.cat(list(model.early_logits(features, text)))
        plain = model.head(0, model.embed_cost(cost_map(features.embeddings, text)))[0]
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_block", [1, 4, 11, 50])
def test_prediction_in_blocks_equals_all_classes_at_once(class_block):
    model = decoder(class_block)
    features, text = inputs(model, images=2)
    with torch.no_grad():
        *_, final = model(features, text)
        for index in range(2):
            logits, kept = model.predict(features.image(index), text)
            torch.testing.assert_close(logits, final[index], rtol=1e-4, atol=1e-5)
    assert kept.tolist() == list(range(11)) and final.shape == (2, 11, 24, 32)


def test_wide_cost_embedding_by_fourier_transform_equals_the_training_form():
    model = decoder(class_block=16, templates=32, channels=[32, 8, 8, 4])
    features, _ = inputs(model)
    text = torch.randn(37, 32, SIZE)
    *_, final = model(features, text)
    with torch.inference_mode():
        logits, _ = model.predict(features, text)
    torch.testing.assert_close(logits, final[0].detach(), rtol=1e-4, atol=1e-5)


class KeepBestHalf(EarlyRejection):
    """A rule that rejects at every step, whatever the weights."""

    def kept(self, blocks):
        mean = torch.cat(list(blocks)).flatten(1).mean(dim=1)
        return mean.topk(len(mean) // 2).indices.sort().values


def rejecting(model, features, text, rule):
    """The published fast path: embeddings and guidance of all classes, then masks over the class axis."""
    cost = cost_map(features.embeddings, text)
    x, kept, sizes = model.embed_cost(cost), torch.arange(len(text)), []
    guidance = [model.cost_guidance(cost, i) for i in range(3)]
    for index, stage in enumerate(model.stages):
        mask = torch.zeros(x.shape[1], dtype=torch.bool)
        mask[rule.kept([model.head(index, x)[0]])] = True
        x, kept, guidance = x[:, mask], kept[mask], [g[:, mask] for g in guidance]
        sizes.append(len(kept))
        (x,) = stage(HeldBlocks([x]), features.guidance[index], lambda _, g=guidance[index]: g)
    return model.head(3, x)[0], kept, sizes


@pytest.mark.parametrize("rule", [EarlyRejection(top_k=1), KeepBestHalf(top_k=1)])
def test_early_rejection_equals_masks_over_whole_tensors(rule):
    model = decoder()
    features, text = inputs(model, classes=61)
    with torch.no_grad():
        wanted, kept, sizes = rejecting(model, features, text, rule)
        logits, ours = model.predict(features, text, rule)
    assert sizes[0] < 61 and (sizes == [30, 15, 7] or type(rule) is EarlyRejection)
    assert ours.tolist() == kept.tolist()
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("held", [0, 4 * 61 * 16 * 12, 4 * 61 * 8 * 48, 4 * 61 * 8 * 192])
@pytest.mark.parametrize("rule", [None, EarlyRejection(top_k=1), KeepBestHalf(top_k=1)])
def test_maps_made_again_equal_maps_held(monkeypatch, held, rule):
    """With room for no maps between stages, for those of the first one, of the first two, of all."""
    model = decoder()
    features, text = inputs(model, classes=61)
    with torch.no_grad():
        wanted, kept = model.predict(features, text, rule)
        monkeypatch.setattr(blocks, "HELD_BYTES", held)
        logits, ours = model.predict(features, text, rule)
    assert ours.tolist() == kept.tolist()
    torch.testing.assert_close(logits, wanted)


def test_a_top_k_of_all_classes_rejects_nothing():
    model = decoder()
    features, text = inputs(model)
    with torch.no_grad():
        plain, _ = model.predict(features, text)
        logits, kept = model.predict(features, text, EarlyRejection(top_k=11))
    assert len(kept) == 11
    torch.testing.assert_close(logits, plain)


def test_auxiliary_heads_and_guidance_stop_gradients():
    model = decoder(pooling=2).train()
    features, text = inputs(model, images=2)
    backbone = [torch.randn(2, c, 4, 4, requires_grad=True) for c in BACKBONE]
    assert all(g.requires_grad for g in model.visual_guidance(backbone))
    torch.stack([g.sum() for g in model.visual_guidance(backbone)]).sum().backward()
    assert all(b.grad is None for b in backbone)
    *early, _ = model(features, text)
    torch.stack([logits.square().mean() for logits in early]).sum().backward()
    assert model.embed.weight.grad is None
    assert all(head.weight.grad is not None for head in list(model.heads)[:3])
    assert all(p.grad is None for p in model.stages.parameters())


def toy_config(*opts):
    return load_config(
        str(ROOT / "configs" / "toybox" / "sed.yaml"),
        [
            "MODEL.CLIP.PRETRAINED",
            "",
            "MODEL.CLIP.TEXT_CACHE",
            "",
            "MODEL.DEVICE",
            "cpu",
            "MODEL.CLIP.TEMPLATES",
            "single",
            *opts,
        ],
    )


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return build_model(toy_config())


def entry(size, names, **more):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return {"image": image, "vocabulary": names, **more}


def scores_of(model, batch):
    return model.predict(batch).scores(output_sizes(batch))


NAMES = ["grass", "blue star", "sea, water", "brick wall"]


def test_images_of_a_batch_do_not_touch_each_other(toy):
    toy.eval()
    torch.manual_seed(0)
    batch = [entry((60, 90), NAMES), entry((128, 70), NAMES, height=40, width=30)]
    with torch.no_grad():
        together = scores_of(toy, batch)
        alone = [scores_of(toy, [e])[0] for e in batch]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert together[0].shape == (4, 60, 90) and together[1].shape == (4, 40, 30)
    assert together[0].min() > 0 and together[0].max() < 1


def test_early_rejection_gives_probability_zero_to_the_rejected(toy):
    toy.eval()
    torch.manual_seed(0)
    names = [f"thing number {i}" for i in range(40)]
    batch = [entry((96, 96), names), entry((64, 96), names)]
    toy.early_rejection = EarlyRejection(top_k=1)
    try:
        with torch.no_grad():
            scores = scores_of(toy, batch)
            labels = [r["sem_seg_labels"] for r in toy(batch)]
    finally:
        toy.early_rejection = None
    for image in range(2):
        lost = (scores[image] == 0).flatten(1).all(dim=1)
        assert 0 < int(lost.sum()) < 40
        assert torch.equal(labels[image], scores[image].argmax(dim=0))


def test_training_step(toy):
    toy.train()
    labels = torch.randint(0, 4, (128, 128))
    labels[:10] = 255
    batch = [entry((128, 128), NAMES, sem_seg=labels) for _ in range(2)]
    losses = toy(batch)
    assert list(losses) == ["loss_final", "loss_stage_0", "loss_stage_1", "loss_stage_2"]
    toy.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    trained = {name for name, p in toy.named_parameters() if p.requires_grad}
    assert {name for name, p in toy.named_parameters() if p.grad is not None} == trained
    assert all(name.startswith(("clip.visual.", "decoder.")) for name in trained)
    assert any(name.startswith("clip.visual.trunk.stem") for name in trained)


def test_official_names_both_ways(toy):
    ours = toy.state_dict()
    official = checkpoint_table().to_official(ours)
    assert len(official) == len(ours)
    assert checkpoint_table().recognises(official)
    card, _ = recognise_checkpoint(official)
    assert card.name == "SED"
    assert "sem_seg_head.predictor.transformer.decoder3.cnext.pwconv1.weight" in official
    assert "sem_seg_head.predictor.transformer.head.bias" in official
    back = checkpoint_table().to_ours(official, source="test")
    assert back.keys() == ours.keys() and all(torch.equal(back[n], ours[n]) for n in ours)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.CLIP.NAME", "toybox-vit"], "SED needs a CLIP with a ConvNeXt image tower"),
        (["MODEL.SED.KERNEL_SIZES", "[9, 8, 9]"], "MODEL.SED.KERNEL_SIZES"),
        (["MODEL.SED.DECODER_CHANNELS", "[9, 8]"], "MODEL.SED.DECODER_CHANNELS"),
        (["MODEL.SED.CLASS_HEADS", "5"], "MODEL.SED.CLASS_HEADS 5"),
        (["TEST.EARLY_REJECTION.TOP_K", "0"], "TEST.EARLY_REJECTION.TOP_K"),
    ],
)
def test_contradictions_are_named(opts, message):
    with pytest.raises(UserError, match=message):
        build_model(toy_config(*opts))


@pytest.mark.parametrize("variant", ["base", "large"])
def test_every_official_tensor_is_accounted_for(reference, variant, monkeypatch):
    """On the meta device: names and shapes of the full-size model, without its memory."""
    keys = json.loads((reference / "sed" / f"keys-{variant}.json").read_text())
    config = {"base": "sed_convnextb", "large": "sed_convnextl"}[variant]
    cfg = load_config(
        str(ROOT / "configs" / f"{config}.yaml"), ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""]
    )
    monkeypatch.setattr("open_clip.factory._set_model_device_and_precision", lambda *_args: None)
    # timm reads rates from a tensor, which the meta device does not have.
    monkeypatch.setattr(
        "timm.models.convnext.calculate_drop_path_rates", lambda _rate, depths, stagewise: [[0.0] * d for d in depths]
    )
    with torch.device("meta"):
        model = SED(cfg)
    official = checkpoint_table().to_official(model.state_dict())
    assert {name: list(value.shape) for name, value in official.items()} == {n: k["shape"] for n, k in keys.items()}
    published = json.loads((reference / "sed" / f"trainable-{variant}.json").read_text())
    assert trainable_table(model, checkpoint_table(), cfg) == {
        n: (v["lr_mult"], v["weight_decay"]) for n, v in published.items()
    }


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.COST_AGGREGATION.CLASS_ATTENTION", "nearest", "MODEL.COST_AGGREGATION.NEAREST_CLASSES", "3"],
        ["MODEL.COST_AGGREGATION.FEED_FORWARD", "experts"],
        ["MODEL.COST_AGGREGATION.FEED_FORWARD", "shared_experts"],
        ["MODEL.COST_AGGREGATION.SPATIAL", "deformable"],
        ["MODEL.COST_AGGREGATION.IMAGE_CORRELATION", "replace"],
        ["MODEL.COST_AGGREGATION.IMAGE_CORRELATION", "append"],
    ],
    ids=["nearest", "experts", "shared_experts", "deformable", "correlation", "correlation_append"],
)
def test_variants_train_and_predict_in_blocks(opts):
    """Each variant behind its keys: gradients reach every parameter, and evaluation in blocks equals all at once."""
    torch.manual_seed(0)
    model = build_model(toy_config(*opts, "MODEL.SED.TRAIN_POOLING", "1"))
    batch = [entry((64, 64), [f"thing number {i}" for i in range(9)], sem_seg=torch.randint(0, 9, (64, 64)))]
    model.train()
    losses = model(batch)
    assert ("loss_balance" in losses) == ("FEED_FORWARD" in opts[0])
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name in without if ".experts." not in name], without
    model.eval()
    with torch.no_grad():
        encoded, text = model.encode(model.preprocess(batch)), model.text(batch_vocabulary(batch))
        *_, whole = model.decoder(encoded.features, text)
        model.decoder.class_block = 4
        logits, _ = model.decoder.predict(encoded.features, text)
    torch.testing.assert_close(logits, whole[0], rtol=1e-3, atol=1e-4)

"""ERR-Seg: cheaper forms against plain ones, the class selection, the model as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance.optimizer import trainable_table

from twostage.clip.towers.convnext import Pyramid
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.cards import recognise_checkpoint
from twostage.systems.one_stage.cost_aggregation.layer import AggregatorLayer
from twostage.systems.one_stage.errseg.aggregator import Aggregator, Costs, SameGridFusion
from twostage.systems.one_stage.errseg.feed_forward import StochasticDepth
from twostage.systems.one_stage.errseg.layers import ClassAggregation, ReducedAttention, SpatialAggregation
from twostage.systems.one_stage.errseg.model import ERRSeg
from twostage.systems.one_stage.errseg.selection import present_classes, select_classes
from twostage.systems.one_stage.errseg.weights import checkpoint_table

ROOT = Path(__file__).parents[2]
NAMES = ["grass", "blue star", "sea, water", "brick wall"]
EMBEDDING, CHANNELS, STAGES = 6, 8, (3, 4, 5, 6)


def aggregator(class_block=3):
    torch.manual_seed(0)
    sizes = {"channels": CHANNELS, "guidance_channels": CHANNELS, "heads": 2, "drop_path": 0.0}
    model = Aggregator(
        cost_channels=1,
        embedding=EMBEDDING,
        stage_channels=STAGES,
        source_channels=10,
        channels=CHANNELS,
        layers=[AggregatorLayer(spatial=SpatialAggregation(**sizes), classes=ClassAggregation(**sizes))],
        decoder_channels=[8, 8, 8],
        decoder_guidance=[4, 3, 2],
        class_block=class_block,
    )
    return model.eval()


def inputs(model, classes=7, images=2):
    torch.manual_seed(1)
    pyramid = Pyramid(*(20 * torch.randn(images, c, 32 >> i, 16 >> i) for i, c in enumerate(STAGES)))
    costs = Costs(torch.randn(images, classes, 1, 8, 4), torch.randn(images, classes, 1, 4, 2))
    return costs, torch.randn(images, classes, 1, EMBEDDING), model.guidance(pyramid)


def test_costs_in_one_convolution_each_equal_embedding_mean_and_projection():
    model = aggregator()
    costs, _, _ = inputs(model)
    fine, coarse = (embed(cost.flatten(0, 1)) for embed, cost in zip(model.costs, costs, strict=True))
    coarse = F.interpolate(coarse, size=(8, 4), mode="bilinear", align_corners=False)
    plain = model.cost_fusion((fine + coarse) / 2).unflatten(0, (2, 7))
    torch.testing.assert_close(model.embed_costs(costs), plain, rtol=1e-4, atol=1e-5)


def test_guidance_apart_equals_guidance_appended_for_every_class():
    torch.manual_seed(0)
    layer = ReducedAttention(channels=8, guidance_channels=4, heads=2)
    x, guidance = torch.randn(2, 3, 4, 6, 8), torch.randn(2, 4, 4, 6)
    joined = torch.cat([x, guidance.permute(0, 2, 3, 1)[:, None].expand(-1, 3, -1, -1, -1)], dim=-1).flatten(0, 1)
    keys = layer.reduce_k(joined.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    values = layer.reduce_v(x.flatten(0, 1).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    q, k, v = layer.q(joined.flatten(1, 2)), layer.k(layer.norm_k(keys)), layer.v(layer.norm_v(values))
    heads = []
    for part in range(2):
        one = slice(4 * part, 4 * part + 4)
        heads.append((q[..., one] @ k[..., one].transpose(1, 2) / 4**0.5).softmax(dim=-1) @ v[..., one])
    wanted = layer.proj(torch.cat(heads, dim=-1)).view(x.shape)
    torch.testing.assert_close(layer(x, layer.terms(guidance)), wanted, rtol=1e-4, atol=1e-5)


def test_a_fusion_that_keeps_the_grid_equals_its_convolutions():
    torch.manual_seed(0)
    fusion = SameGridFusion(in_channels=8, out_channels=8, visual_channels=3)
    x, visual = torch.randn(2, 3, 8, 5, 6), torch.randn(2, 3, 5, 6)
    joined = torch.cat([fusion.up(x.flatten(0, 1)), visual.repeat_interleave(3, dim=0)], dim=1)
    wanted = F.relu(fusion.norm2(fusion.conv2(F.relu(fusion.norm1(fusion.conv1(joined))))))
    torch.testing.assert_close(fusion(x, fusion.visual_term(visual)), wanted.unflatten(0, (2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("class_block", [1, 3, 50])
def test_classes_in_blocks_equal_all_at_once(class_block):
    model = aggregator(class_block)
    costs, text, guidance = inputs(model)
    whole = model(costs, text, guidance)
    with torch.no_grad():
        torch.testing.assert_close(model(costs, text, guidance), whole, rtol=1e-4, atol=1e-5)
    assert whole.shape == (2, 7, 32, 16)


def test_stage_outputs_are_cut_and_guide_without_gradient_but_for_appearance():
    model = aggregator()
    pyramid = Pyramid(*(torch.randn(1, c, 32 >> i, 16 >> i) for i, c in enumerate(STAGES)))
    pyramid.res4[0, 0, 0, 0] = 30.0
    pyramid = Pyramid(*(maps.requires_grad_() for maps in pyramid))
    guidance = model.guidance(pyramid)
    (guidance.appearance.sum() + sum(maps.sum() for maps in guidance.decoder)).backward()
    assert pyramid.res2.grad is None and pyramid.res3.grad is None
    assert pyramid.res4.grad[0, 0, 0, 0] == 0 and pyramid.res4.grad.any() and pyramid.res5.grad.any()
    cut = Pyramid(*(maps.detach().clamp(-16, 16) for maps in pyramid))
    torch.testing.assert_close(model.guidance(cut).appearance, guidance.appearance)


def test_classes_that_are_there_come_first_and_the_end_is_cut_off():
    cost = torch.zeros(1, 6, 1, 2, 2)
    cost[0, 4], cost[0, 2], cost[0, 5] = 3.0, 2.0, 1.0
    assert select_classes(cost, 3).tolist() == [[2, 4, 5]]
    assert select_classes(cost, 3, [torch.tensor([1, 4])]).tolist() == [[1, 4, 2]]
    assert select_classes(cost, 3, [torch.tensor([0, 1, 3, 4])]).tolist() == [[0, 1, 3]]
    # Classes without a vote: the lower index first. More slots than classes keep all.
    assert select_classes(cost, 5).tolist() == [[0, 1, 2, 4, 5]]
    assert select_classes(cost, 9).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert present_classes(torch.tensor([[3, 255], [0, 3]]), 6).tolist() == [0, 3]


def test_stochastic_depth_drops_whole_samples():
    torch.manual_seed(0)
    drop = StochasticDepth(rate=0.5, samples=(0, 2))
    x = drop(torch.ones(20, 3, 30, 4))
    assert set(x.unique().tolist()) == {0.0, 2.0} and abs(float(x.mean()) - 1) < 0.2
    assert torch.equal(x, x[:, :1, :, :1].expand_as(x))
    assert torch.equal(drop.eval()(x), x)


def toy_config(*opts):
    random = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu"]
    return load_config(
        str(ROOT / "configs" / "toybox" / "errseg.yaml"), [*random, "MODEL.CLIP.TEMPLATES", "single", *opts]
    )


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return build_model(toy_config())


def test_the_fine_pass_begins_as_the_strided_one(toy):
    """Its copy of CLIP's weights is as CLIP's, and stays so: neither is trained."""
    norm, conv = toy.clip.visual.trunk.stages[3].downsample
    for ours, theirs in ((toy.fine_pass.norm, norm), (toy.fine_pass.conv, conv)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert not any(p.requires_grad for module in (ours, theirs) for p in module.parameters())
    x = torch.randn(1, norm.weight.numel(), 6, 8)
    torch.testing.assert_close(toy.fine_pass.conv(x)[..., 1::2, 1::2], conv(x), rtol=1e-4, atol=1e-5)


def test_training_step(toy):
    toy.train()
    labels = torch.randint(0, 4, (128, 128))
    labels[:10] = 255
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    batch = [{"image": image, "vocabulary": NAMES, "sem_seg": labels} for _ in range(2)]
    losses = toy(batch)
    assert list(losses) == ["loss_sem_seg"]
    toy.zero_grad()
    losses["loss_sem_seg"].backward()
    trained = {name for name, p in toy.named_parameters() if p.requires_grad}
    assert {name for name, p in toy.named_parameters() if p.grad is not None} == trained
    clip = {name.removeprefix("clip.") for name in trained if not name.startswith("aggregator.")}
    assert any(n.startswith("visual.") for n in clip) and any(n.startswith("transformer.") for n in clip)
    assert not any(n.endswith("bias") or "norm" in n or "stem" in n or "downsample" in n for n in clip)


def test_classes_that_are_not_kept_have_no_probability(toy):
    toy.eval()
    torch.manual_seed(0)
    names = [f"thing number {i}" for i in range(40)]
    image = torch.randint(0, 256, (3, 96, 80), dtype=torch.uint8)
    with torch.no_grad():
        prediction = toy.predict([{"image": image, "vocabulary": names}])
        (scores,), (labels,) = prediction.scores([(96, 80)]), prediction.label_maps([(96, 80)])
        assert toy.predict([{"image": image, "vocabulary": names[:16]}]).kept is None
    assert prediction.kept.shape == (1, 16) and int((scores.flatten(1).amax(dim=1) > 1e-30).sum()) == 16
    assert torch.equal(labels, scores.argmax(dim=0))


def test_official_names_both_ways(toy):
    ours, table = toy.state_dict(), checkpoint_table()
    official = table.to_official(ours)
    assert len(official) == len(ours) and table.recognises(official)
    assert recognise_checkpoint(official)[0].name == "ERR-Seg"
    back = table.to_ours(official, source="test")
    assert back.keys() == ours.keys() and all(torch.equal(back[n], ours[n]) for n in ours)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.CLIP.NAME", "toybox-vit"], "ERR-Seg needs a CLIP with a ConvNeXt image tower"),
        (["MODEL.ERRSEG.DECODER_CHANNELS", "[9, 8]"], "MODEL.ERRSEG.DECODER_CHANNELS"),
        (["MODEL.ERRSEG.HEADS", "5"], "MODEL.ERRSEG.HEADS 5"),
        (["MODEL.ERRSEG.TEST_RESOLUTION", "250"], "MODEL.ERRSEG.TEST_RESOLUTION is 250"),
        (["MODEL.ERRSEG.SLOTS", "0"], "MODEL.ERRSEG.SLOTS"),
    ],
)
def test_contradictions_are_named(opts, message):
    with pytest.raises(UserError, match=message):
        build_model(toy_config(*opts))


@pytest.mark.parametrize("variant", ["b", "l"])
def test_every_official_tensor_is_accounted_for(reference, variant, monkeypatch):
    """On the meta device: names, shapes and what is trained of the full-size model, without its memory."""
    keys = json.loads((reference / "errseg" / f"keys-{variant}.json").read_text())
    cfg = load_config(
        str(ROOT / "configs" / f"errseg_convnext{variant}.yaml"),
        ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""],
    )
    monkeypatch.setattr("open_clip.factory._set_model_device_and_precision", lambda *_args: None)
    # timm reads rates from a tensor, which the meta device does not have.
    monkeypatch.setattr(
        "timm.models.convnext.calculate_drop_path_rates", lambda _rate, depths, stagewise: [[0.0] * d for d in depths]
    )
    with torch.device("meta"):
        model = ERRSeg(cfg)
    official = checkpoint_table().to_official(model.state_dict())
    assert {name: list(value.shape) for name, value in official.items()} == {n: k["shape"] for n, k in keys.items()}
    published = json.loads((reference / "errseg" / f"trainable-{variant}.json").read_text())
    assert trainable_table(model, checkpoint_table(), cfg) == {
        n: (v["lr_mult"], v["weight_decay"]) for n, v in published.get("trainable", published).items()
    }

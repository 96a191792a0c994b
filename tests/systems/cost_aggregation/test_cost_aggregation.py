"""The shared parts of cost-aggregation systems against their formulas written out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from twostage.systems.one_stage.cost_aggregation.class_attention import LinearClassAggregation, LinearClassAttention
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.fusion import UpsamplingFusion
from twostage.systems.one_stage.cost_aggregation.losses import one_vs_rest_loss


def test_cost_map_is_the_cosine():
    torch.manual_seed(0)
    pixels, text = torch.randn(2, 6, 3, 4), torch.randn(5, 7, 6)
    cost = cost_map(pixels, text)
    assert cost.shape == (2, 5, 7, 3, 4)
    wanted = F.cosine_similarity(pixels[1, :, 2, 3], text[4, 6], dim=0)
    torch.testing.assert_close(cost[1, 4, 6, 2, 3], wanted)


def test_linear_attention_equals_its_formula():
    """Weights phi(q) . phi(k), normalised over classes, computed one pair at a time."""
    torch.manual_seed(0)
    layer = LinearClassAttention(channels=8, heads=2, guidance_channels=3)
    x, guidance = torch.randn(1, 5, 2, 8), torch.randn(1, 5, 2, 3)
    out = layer(x, layer.memory(x, guidance), guidance)
    joined = torch.cat([x, guidance], dim=-1)
    q, k, v = F.elu(layer.q(joined)) + 1, F.elu(layer.k(joined)) + 1, layer.v(x)
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        weights = torch.stack([(q[0, 3, 1, part] * k[0, s, 1, part]).sum() for s in range(5)])
        wanted = (weights[:, None] / (weights.sum() + 1e-6) * v[0, :, 1, part]).sum(dim=0)
        torch.testing.assert_close(out[0, 3, 1, part], wanted)


@pytest.mark.parametrize("pooling", [1, 2])
def test_classes_in_blocks_equal_all_at_once(pooling):
    torch.manual_seed(0)
    layer = LinearClassAggregation(
        channels=8, heads=2, train_pooling=1, test_pooling=pooling, guidance_channels=3
    ).eval()
    x, guidance = torch.randn(2, 7, 8, 5, 4), torch.randn(2, 7, 3)
    (whole,) = layer.aggregate([x], [guidance])
    parts = list(layer.aggregate(x.split(3, dim=1), guidance.split(3, dim=1)))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert [len(p[0]) for p in parts] == [3, 3, 1]


def test_class_aggregation_keeps_the_order_of_classes_irrelevant():
    torch.manual_seed(0)
    layer = LinearClassAggregation(channels=8, heads=2, train_pooling=1, test_pooling=1).eval()
    x = torch.randn(1, 6, 8, 3, 3)
    order = torch.randperm(6)
    (whole,), (shuffled,) = layer.aggregate([x]), layer.aggregate([x[:, order]])
    torch.testing.assert_close(shuffled, whole[:, order])


def test_residual_counts_twice_without_pooling():
    layer = LinearClassAggregation(channels=8, heads=2, train_pooling=1, test_pooling=1).eval()
    torch.nn.init.zeros_(layer.attention.v.weight)
    torch.nn.init.zeros_(layer.attention.v.bias)
    torch.nn.init.zeros_(layer.mlp[2].weight)
    torch.nn.init.zeros_(layer.mlp[2].bias)
    x = torch.randn(1, 4, 8, 3, 3)
    torch.testing.assert_close(next(layer.aggregate([x])), 2 * x)


def test_fusion_equals_the_convolution_of_everything_joined():
    torch.manual_seed(0)
    fusion = UpsamplingFusion(in_channels=64, out_channels=32, visual_channels=16, cost_channels=8)
    x, visual, cost = torch.randn(2, 3, 64, 4, 5), torch.randn(2, 16, 8, 10), torch.randn(2, 3, 8, 8, 10)
    out = fusion(x, fusion.visual_term(visual), cost)
    up = fusion.up(x.flatten(0, 1))
    joined = torch.cat([up, visual.repeat_interleave(3, dim=0), cost.flatten(0, 1)], dim=1)
    y = F.relu(fusion.norm1(fusion.conv1(joined)))
    wanted = F.relu(fusion.norm2(fusion.conv2(y))).unflatten(0, (2, 3))
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    assert fusion.norm1.num_groups == 2


def test_ignored_pixels_are_negatives_for_all_classes():
    logits = torch.tensor([[[[2.0, -1.0]], [[0.5, 3.0]]]])
    labels = torch.tensor([[[1, 255]]])
    terms = [F.softplus(torch.tensor(v)) for v in (2.0, -1.0, -0.5, 3.0)]
    torch.testing.assert_close(one_vs_rest_loss(logits, labels), torch.stack(terms).mean())


def test_no_module_of_the_systems_imports_a_variant_before_the_config_names_it():
    """Imports at the top of a file; those inside functions of `building.py` are what a config asks for."""
    folder = Path(cost_map.__code__.co_filename).parent
    folders = (folder, *(folder.parent / name for name in ("catseg", "sed", "errseg")))
    # Cards name the keys of variants.
    files = [file for folder in folders for file in folder.glob("*.py") if file.name != "card.py"]
    assert len(files) > 15
    for file in files:
        imported = [node.module or "" for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert not [name for name in imported if ".variants." in name and not name.endswith(".keys")], file

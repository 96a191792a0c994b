"""Variants of the aggregation against their formulas written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.systems.one_stage.cost_aggregation.softmax_attention import SoftmaxClassAggregation, SoftmaxClassAttention
from twostage.systems.one_stage.cost_aggregation.variants.deformable import DeformableAggregation, DeformableConvolution
from twostage.systems.one_stage.cost_aggregation.variants.experts import ExpertFeedForward, LoadBalance
from twostage.systems.one_stage.cost_aggregation.variants.nearest_attention import nearest_classes


def test_a_class_reads_itself_and_the_most_similar_ones():
    text = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 0.0]])
    near = nearest_classes(text, 2)
    assert near.sum(dim=1).tolist() == [2] * 5 and near.diagonal().all()
    assert near[2].nonzero().flatten().tolist() == [2, 3]
    # Of equals, each reads itself and the other one.
    assert near[0].nonzero().flatten().tolist() == [0, 4] == near[4].nonzero().flatten().tolist()
    assert nearest_classes(text, 50).all()


def test_nearest_attention_equals_softmax_over_the_neighbours():
    torch.manual_seed(0)
    layer = SoftmaxClassAttention(channels=8, heads=2, guidance_channels=3)
    x, guidance = torch.randn(1, 5, 2, 8), torch.randn(1, 5, 1, 3)
    near = nearest_classes(torch.randn(5, 4), 3)
    out = layer(x, *layer.keys_values(x, guidance), near[None], guidance)
    joined = torch.cat([x, guidance.expand(-1, -1, 2, -1)], dim=-1)[0, :, 1]
    q, k, v = layer.q(joined), layer.k(joined), layer.v(x[0, :, 1])
    read = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        logits = (q[3, part] @ k[:, part].T) / 2
        read.append(logits.masked_fill(~near[3], float("-inf")).softmax(dim=0) @ v[:, part])
    torch.testing.assert_close(out[0, 3, 1], layer.proj(torch.cat(read)))


@pytest.mark.parametrize("batched", [False, True])
def test_nearest_aggregation_in_blocks_and_untouched_by_far_classes(batched):
    torch.manual_seed(0)
    layer = SoftmaxClassAggregation(channels=8, heads=2, train_pooling=1, test_pooling=2).eval()
    x = torch.randn(2, 7, 8, 4, 4)
    near = nearest_classes(torch.randn(7, 4), 3)
    given = near.expand(2, -1, -1) if batched else near
    (whole,) = layer.aggregate([x], neighbours=given)
    parts = list(layer.aggregate(x.split(3, dim=1), neighbours=given))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    far = int((~near[0]).nonzero()[0])
    changed = x.clone()
    changed[:, far] = torch.randn(2, 8, 4, 4)
    (after,) = layer.aggregate([changed], neighbours=given)
    torch.testing.assert_close(after[:, 0], whole[:, 0])
    reader = int((near[:, far] & (torch.arange(7) != far)).nonzero()[0]) if near[:, far].sum() > 1 else far
    assert not torch.allclose(after[:, reader], whole[:, reader])


@pytest.mark.parametrize("shared", [0, 2])
def test_experts_equal_their_formula(shared):
    torch.manual_seed(0)
    layer = ExpertFeedForward(
        channels=6, hidden=24, experts=5, active=2, shared=shared, balance=LoadBalance(weight=1.0)
    )
    assert layer.experts[0][0].out_features == 24 // (2 + shared)
    x = torch.randn(3, 4, 6)
    out = layer(x)
    token = x[1, 2]
    affinity = layer.router(token)
    best = affinity.argsort(descending=True)[:2]
    gates = affinity.softmax(dim=0)[best] if shared else affinity[best].softmax(dim=0)
    wanted = sum(g * layer.experts[int(e)](token) for g, e in zip(gates, best, strict=True))
    wanted = wanted + sum(expert(token) for expert in layer.shared)
    torch.testing.assert_close(out[1, 2], wanted)


def test_balance_is_one_when_even_and_grows_when_tokens_crowd():
    balance = LoadBalance(weight=0.5)
    layer = ExpertFeedForward(channels=4, hidden=8, experts=4, active=1, balance=balance).train()
    with torch.no_grad():
        layer.router.weight.copy_(0.001 * torch.eye(4))
    layer(torch.eye(4))
    torch.testing.assert_close(balance.take()["loss_balance"], torch.tensor(0.5), rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        layer.router.weight.copy_(50 * torch.eye(4))
    layer.eval()(torch.eye(4))
    # What was made in evaluation is not reported, and what was taken does not count again.
    layer.train()(torch.eye(4)[:1].expand(4, -1))
    assert float(balance.take()["loss_balance"].detach()) == pytest.approx(0.5 * 4, rel=1e-3)


def test_router_learns():
    torch.manual_seed(0)
    balance = LoadBalance(weight=1.0)
    layer = ExpertFeedForward(channels=6, hidden=24, experts=5, active=2, shared=1, balance=balance).train()
    (layer(torch.randn(9, 6)).square().sum() + balance.take()["loss_balance"]).backward()
    assert layer.router.weight.grad.abs().sum() > 0


def test_deformable_convolution_starts_as_the_mean_of_the_neighbourhood():
    torch.manual_seed(0)
    layer = DeformableConvolution(channels=4, groups=2)
    x = torch.randn(2, 5, 6, 4)
    projected = layer.input(x).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(projected, 3, stride=1, padding=1, count_include_pad=True)
    torch.testing.assert_close(layer(x), layer.output(mean.permute(0, 2, 3, 1)), rtol=1e-4, atol=1e-5)


def test_deformable_convolution_equals_sampling_point_by_point():
    torch.manual_seed(0)
    layer = DeformableConvolution(channels=4, groups=2)
    for head in (layer.offset, layer.weight):
        torch.nn.init.normal_(head.weight, std=0.5)
        torch.nn.init.normal_(head.bias, std=0.5)
    x = torch.randn(1, 5, 6, 4)
    near = F.gelu(layer.norm(layer.neighbourhood(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
    row, column = 2, 4
    offsets = layer.offset(near)[0, row, column].view(2, 9, 2)
    weights = layer.weight(near)[0, row, column].view(2, 9).softmax(dim=-1)
    projected = layer.input(x)[0]
    wanted = torch.zeros(4)
    for group in range(2):
        for point in range(9):
            place_x = column + point % 3 - 1 + offsets[group, point, 0]
            place_y = row + point // 3 - 1 + offsets[group, point, 1]
            for r in range(5):
                for c in range(6):
                    share = (1 - (place_y - r).abs()).clamp(min=0) * (1 - (place_x - c).abs()).clamp(min=0)
                    wanted[2 * group : 2 * group + 2] += (
                        weights[group, point] * share * projected[r, c, 2 * group : 2 * group + 2]
                    )
    torch.testing.assert_close(layer(x)[0, row, column], layer.output(wanted), rtol=1e-4, atol=1e-5)


def test_deformable_aggregation_treats_maps_apart():
    torch.manual_seed(0)
    layer = DeformableAggregation(channels=8, groups=2)
    x = torch.randn(2, 3, 8, 5, 4)
    out = layer(x)
    torch.testing.assert_close(layer(x[1:, 2:])[0, 0], out[1, 2], rtol=1e-4, atol=1e-5)

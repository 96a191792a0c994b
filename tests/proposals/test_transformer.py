"""Attention layers, position codes and deformable attention against slow or other implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from twostage.proposals.deformable_attention import (
    DeformableAttention,
    reference_points,
    sample_by_gathering,
    sample_by_grid,
)
from twostage.proposals.position import sine_position_code
from twostage.proposals.transformer import AttentionLayer, DecoderLayer, FeedForwardLayer, attend


def test_attend_equals_torch_with_a_mask():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    q, k, v = torch.randn(2, 4, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    allowed = torch.rand(2, 4, 7) < 0.6
    allowed[..., 0] = True
    wanted, _ = layer(q, k, v, attn_mask=~allowed.repeat_interleave(3, dim=0))
    torch.testing.assert_close(attend(layer, q, k, v, allowed), wanted)
    torch.testing.assert_close(attend(layer, q, k, v), layer(q, k, v)[0])


def test_decoder_layer_equals_torchs_post_norm_layer():
    """Without position codes a MaskFormer layer is torch's TransformerDecoderLayer."""
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(16, 4, dim_feedforward=24, dropout=0.0, batch_first=True)
    ours = DecoderLayer(width=16, heads=4, hidden=24, cross_attention_first=False)
    names = {
        "self_attention.attn.": "self_attn.",
        "self_attention.norm.": "norm1.",
        "cross_attention.attn.": "multihead_attn.",
        "cross_attention.norm.": "norm2.",
        "feed_forward.norm.": "norm3.",
        "feed_forward.": "",
    }
    state = {}
    for name in ours.state_dict():
        prefix = next(p for p in names if name.startswith(p))
        state[name] = theirs.state_dict()[names[prefix] + name.removeprefix(prefix)]
    ours.load_state_dict(state)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    none = torch.zeros(1, 1, 16)
    torch.testing.assert_close(ours(x, none, memory, none), theirs(x, memory), rtol=1e-4, atol=1e-5)


def test_positions_reach_queries_and_keys_but_not_values():
    torch.manual_seed(0)
    layer = AttentionLayer(width=8, heads=2)
    x, memory, p, mp = torch.randn(1, 3, 8), torch.randn(1, 4, 8), torch.randn(1, 3, 8), torch.randn(1, 4, 8)
    out = attend(layer.attn, x + p, memory + mp, memory)
    torch.testing.assert_close(layer(x, p, memory, mp), layer.norm(x + out))
    torch.testing.assert_close(layer(x, p), layer.norm(x + attend(layer.attn, x + p, x + p, x)))


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    layer = FeedForwardLayer(width=8, hidden=16, dropout=0.5)
    x = torch.randn(1, 3, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_sine_code_closed_form():
    code = sine_position_code((3, 5), 16, torch.device("cpu")).view(3, 5, 16)
    for row, column, channel in ((0, 0, 0), (2, 4, 3), (1, 3, 6)):
        scale = 10000 ** (2 * (channel // 2) / 8)
        wave = math.sin if channel % 2 == 0 else math.cos
        assert float(code[row, column, channel]) == pytest.approx(wave((row + 1) / 3 * 2 * math.pi / scale), abs=1e-4)
        wanted = wave((column + 1) / 5 * 2 * math.pi / scale)
        assert float(code[row, column, 8 + channel]) == pytest.approx(wanted, abs=1e-4)


GRIDS = [(2, 3), (4, 5)]


def sampling_inputs(requires_grad=False):
    torch.manual_seed(0)
    value = torch.randn(2, 26, 3, 4)
    # Some points lie outside the image.
    x, y = torch.rand(2, 2, 7, 3, 2, 2) * 1.6 - 0.3
    logits = torch.randn(2, 7, 3, 2, 2)
    return [t.clone().requires_grad_(requires_grad) for t in (value, x, y, logits)]


def slow_sampling(value, columns, rows, logits):
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    out = torch.zeros(2, 7, 3, 4)
    starts = [0, 6]
    for b, q, m, level, p in torch.cartesian_prod(*map(torch.arange, (2, 7, 3, 2, 2))).tolist():
        height, width = GRIDS[level]
        x = float(columns[b, q, m, level, p]) * width - 0.5
        y = float(rows[b, q, m, level, p]) * height - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, m, level, p]
                    out[b, q, m] += share * value[b, starts[level] + row * width + column, m]
    return out.flatten(2)


@pytest.mark.parametrize("sample", [sample_by_grid, sample_by_gathering])
def test_sampling_equals_the_definition(sample):
    value, columns, rows, logits = sampling_inputs()
    wanted = slow_sampling(value, columns, rows, logits)
    torch.testing.assert_close(sample(value, GRIDS, (columns, rows), logits), wanted, rtol=1e-4, atol=1e-5)


def test_both_ways_of_sampling_have_the_same_gradients():
    gradients = []
    for sample in (sample_by_grid, sample_by_gathering):
        inputs = sampling_inputs(requires_grad=True)
        value, columns, rows, logits = inputs
        sample(value, GRIDS, (columns, rows), logits).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for ours, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)


def test_deformable_attention_starts_on_rays():
    layer = DeformableAttention(width=16, heads=8, levels=2, points=3)
    offsets = layer.sampling_offsets.bias.view(8, 2, 3, 2)
    torch.testing.assert_close(offsets[0, 1], torch.tensor([[1.0, 0.0], [2, 0], [3, 0]]))
    torch.testing.assert_close(offsets[1, 0, 1], torch.tensor([2.0, 2.0]))
    assert layer.sampling_offsets.weight.abs().max() == 0


def test_equal_weights_on_a_constant_image_return_it():
    """Points that stay inside see the constant, whatever the level."""
    torch.manual_seed(0)
    layer = DeformableAttention(width=8, heads=2, levels=2, points=1)
    nn.init.zeros_(layer.sampling_offsets.bias)
    x = torch.randn(1, 1, 8).expand(1, 26, 8)
    wanted = layer.output_proj(layer.value_proj(x))
    out = layer(x, torch.randn(1, 26, 8), GRIDS)
    # At the border a token's centre lies beyond the outer pixel centres of the coarser level.
    points = reference_points(GRIDS, x.device)
    inside = ((points >= 0.25) & (points <= 0.75)).all(dim=-1)
    assert inside.sum() > 2
    torch.testing.assert_close(out[:, inside], wanted[:, inside])
    assert (out - wanted)[:, 6].abs().max() > 1e-3


def test_reference_points_are_token_centres():
    points = reference_points(GRIDS, torch.device("cpu"))
    assert points.shape == (26, 2)
    torch.testing.assert_close(points[5], torch.tensor([2.5 / 3, 0.75]))
    torch.testing.assert_close(points[6], torch.tensor([0.1, 0.125]))

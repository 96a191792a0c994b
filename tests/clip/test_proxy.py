"""Attention by affinities from elsewhere against its written-out formula, and what it must not depend on."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from twostage.clip.dense.proxy import attend, cosine_similarity, in_other_units, proxy_attention
from twostage.clip.towers.vit import Tokens


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(seed)) + 0.4


def test_proxy_attention_is_the_papers() -> None:
    similarity = cosine_similarity(features())
    attention = proxy_attention(similarity.clone(), beta=1.2, gamma=3.0)
    for image, rows in zip(features(), attention, strict=True):
        unit = image.flatten(1).T / image.flatten(1).norm(dim=0)[:, None]
        cosine = unit @ unit.T
        weights = (3.0 * (cosine - 1.2 * cosine.mean())).exp() * (cosine >= 1.2 * cosine.mean())
        torch.testing.assert_close(rows, weights / weights.sum(dim=1, keepdim=True))
    assert 0.2 < (attention == 0).float().mean() < 0.8


def test_patches_attend_to_themselves_where_all_are_alike() -> None:
    alike = cosine_similarity(torch.ones(1, 7, 2, 3))
    torch.testing.assert_close(proxy_attention(alike, beta=1.2, gamma=3.0)[0], torch.eye(6))


def test_order_of_patches_does_not_matter() -> None:
    maps, order = features(), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = maps.flatten(2)[:, :, order].unflatten(2, (4, 5))
    plain = proxy_attention(cosine_similarity(maps), beta=1.2, gamma=3.0)
    torch.testing.assert_close(
        proxy_attention(cosine_similarity(shuffled), beta=1.2, gamma=3.0), plain[:, order][:, :, order]
    )


@torch.no_grad()
def test_attend_mixes_resized_values_of_every_head() -> None:
    """Grids that are not square, and a class token that must have no say."""
    torch.manual_seed(0)
    block = SimpleNamespace(ln_1=nn.LayerNorm(8), attn=nn.MultiheadAttention(8, 2, batch_first=True))
    x = torch.randn(1, 1 + 2 * 3, 8)
    attention = torch.rand(1, 24, 24).softmax(dim=-1)
    out = attend(block, Tokens(x, (2, 3)), attention, (4, 6))
    weight, bias = block.attn.in_proj_weight[16:], block.attn.in_proj_bias[16:]
    values = (block.ln_1(x[:, 1:]) @ weight.T + bias).transpose(1, 2).unflatten(2, (2, 3))
    fine = F.interpolate(values, size=(4, 6), mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(out[0], block.attn.out_proj(attention[0] @ fine))
    x[:, 0] += 1
    torch.testing.assert_close(attend(block, Tokens(x, (2, 3)), attention, (4, 6)), out)


def test_units_of_another_network() -> None:
    pixels = torch.randint(0, 256, (1, 3, 4, 4)).float()
    mean, std, other_mean, other_std = (torch.rand(3, 1, 1) * 50 + 50 for _ in range(4))
    changed = in_other_units((pixels - mean) / std, mean=mean, std=std, other_mean=other_mean, other_std=other_std)
    torch.testing.assert_close(changed, (pixels - other_mean) / other_std, atol=1e-4, rtol=1e-4)

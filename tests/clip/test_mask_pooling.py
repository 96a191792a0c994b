"""Pooling of dense features inside masks, and CLIP's convolutional towers as pyramids."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIPVisionCfg, _build_vision_tower

from twostage.clip.loading import load_clip
from twostage.clip.regions.mask_pooling import attention_pool, embed_masks, masks_on_grid, pool_masks
from twostage.clip.towers.pyramid import feature_pyramid, pyramid_channels, require_convolutional
from twostage.errors import UserError


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    config = CLIPVisionCfg(image_size=96, layers=(1, 1, 1, 1), width=8, head_width=16)
    tower = _build_vision_tower(12, config).eval()
    # Away from the zeros that its last norms start with.
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tower


@pytest.fixture(scope="module")
def convnext():
    torch.manual_seed(0)
    return load_clip("toybox-convnext")[0].visual


def test_pooled_features_are_means_inside_the_mask():
    torch.manual_seed(0)
    features = torch.randn(2, 5, 4, 6)
    masks = torch.rand(2, 3, 4, 6) > 0.5
    masks[1, 2] = False
    pooled = pool_masks(features, masks)
    torch.testing.assert_close(pooled[0, 1], features[0][:, masks[0, 1]].mean(1))
    assert pooled[1, 2].abs().max() == 0


def test_masks_are_resized_before_they_are_cut_off():
    logits = torch.randn(1, 2, 8, 12, requires_grad=True)
    masks = masks_on_grid(logits, (4, 6))
    wanted = F.interpolate(logits, size=(4, 6), mode="bilinear", align_corners=False) > 0
    assert torch.equal(masks, wanted) and torch.equal(masks_on_grid(logits, (8, 12)), logits > 0)


@torch.no_grad()
def test_a_mask_of_everything_is_the_image_embedding(convnext, resnet):
    image = torch.randn(2, 3, 96, 96)
    res5 = feature_pyramid(convnext, image)["res5"]
    everything = torch.ones(2, 1, *res5.shape[2:], dtype=torch.bool)
    torch.testing.assert_close(embed_masks(convnext, res5, everything)[:, 0], convnext(image), rtol=1e-3, atol=1e-4)
    # CLIP's own attention pooling also attends to the mean token, which masks leave out.
    res5 = feature_pyramid(resnet, image)["res5"]
    everything = torch.ones(2, 1, *res5.shape[2:], dtype=torch.bool)
    ours = embed_masks(resnet, res5, everything)[:, 0]
    assert ours.shape == (2, 12) and F.cosine_similarity(ours, resnet(image)).min() > 0.5


@torch.no_grad()
def test_attention_pooling_is_torchs_with_a_mask(resnet):
    torch.manual_seed(0)
    pool, res5 = resnet.attnpool, torch.randn(2, 256, 4, 5)
    masks = torch.rand(2, 6, 4, 5) > 0.5
    masks[0, 0] = False
    square = pool.positional_embedding[1:].T.view(1, 256, 3, 3)
    positions = F.interpolate(square, size=(4, 5), mode="bilinear", align_corners=False)[0].flatten(1).T
    tokens = res5.flatten(2).permute(2, 0, 1)
    query = (tokens.mean(0, keepdim=True) + pool.positional_embedding[0]).expand(6, -1, -1)
    tokens = tokens + positions[:, None]
    blocked = ~masks.flatten(2).repeat_interleave(pool.num_heads, 0)
    wanted, _ = F.multi_head_attention_forward(
        query, tokens, tokens, 256, pool.num_heads, None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
        pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=False, attn_mask=blocked,
        use_separate_proj_weight=True, q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )  # fmt: skip
    ours = attention_pool(resnet, res5, masks).transpose(0, 1)
    torch.testing.assert_close(ours[1:], wanted[1:], rtol=1e-4, atol=1e-5)
    # An empty mask attends to nothing: only the output's bias is left.
    torch.testing.assert_close(ours[0, 0], pool.c_proj.bias)


@torch.no_grad()
def test_pyramids(convnext, resnet):
    image = torch.randn(1, 3, 64, 96)
    for tower in (convnext, resnet):
        require_convolutional(tower, "a test")
        maps = feature_pyramid(tower, image)
        assert {n: m.shape[1] for n, m in maps.items()} == pyramid_channels(tower)
        assert [m.shape[2] for m in maps.values()] == [16, 8, 4, 2]


def test_a_vit_is_refused():
    with pytest.raises(UserError, match=r"a test needs .*convolutional.*RN50"):
        require_convolutional(open_clip.create_model("ViT-B-32", pretrained=None).visual, "a test")

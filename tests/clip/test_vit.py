"""Our way through a CLIP ViT equals open_clip's, and its variants equal their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.clip.towers import vit
from twostage.errors import UserError


def test_blocks_give_the_image_embedding(tiny_clip):
    images = torch.randn(2, 3, 32, 32)
    tokens, _ = vit.run_blocks(tiny_clip.visual.transformer.resblocks, vit.embed_image(tiny_clip.visual, images))
    ours = vit.project_tokens(tiny_clip.visual, tokens.class_token)[:, 0]
    torch.testing.assert_close(ours, tiny_clip.visual(images), rtol=1e-4, atol=1e-5)


def test_taps_are_the_blocks_outputs(tiny_clip):
    tokens = vit.embed_image(tiny_clip.visual, torch.randn(1, 3, 32, 32))
    blocks = tiny_clip.visual.transformer.resblocks
    last, tapped = vit.run_blocks(blocks, tokens, {0, 2, 4})
    assert sorted(tapped) == [0, 2, 4]
    torch.testing.assert_close(tapped[0].x, tokens.x)
    torch.testing.assert_close(tapped[2].x, blocks[1](blocks[0](tokens.x)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tapped[4].x, last.x)


def test_any_size_and_leftover_pixels(tiny_clip):
    a = torch.randn(1, 3, 40, 56)
    tokens = vit.embed_image(tiny_clip.visual, a)
    assert tokens.grid == (5, 7) and tokens.patch_map.shape == (1, 64, 5, 7)
    padded = F.pad(a, (0, 5, 0, 3))
    torch.testing.assert_close(vit.embed_image(tiny_clip.visual, padded).x, tokens.x)


def test_position_embedding_is_kept_or_resized_bicubically():
    embedding = torch.randn(17, 6)
    assert vit.resize_position_embedding(embedding, (4, 4)) is embedding
    resized = vit.resize_position_embedding(embedding, (5, 3))
    assert torch.equal(resized[0], embedding[0])
    grid = embedding[1:].T.reshape(1, 6, 4, 4)
    wanted = F.interpolate(grid, size=(5, 3), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[1:].T.reshape(1, 6, 5, 3), wanted)
    constant = torch.ones(17, 2)
    torch.testing.assert_close(vit.resize_position_embedding(constant, (7, 9)), torch.ones(64, 2))


def test_value_path_is_linear_per_patch(tiny_clip):
    """A patch's value-path feature is proj(ln_post(out_proj(v))) of that patch alone."""
    visual = tiny_clip.visual
    images = torch.randn(1, 3, 32, 32)
    features = vit.value_path_features(visual, images)
    blocks = visual.transformer.resblocks
    tokens, _ = vit.run_blocks(blocks[:-1], vit.embed_image(visual, images))
    y = blocks[-1].ln_1(tokens.x[0, 1 + 6])
    weight, bias = blocks[-1].attn.in_proj_weight[128:], blocks[-1].attn.in_proj_bias[128:]
    wanted = visual.ln_post(blocks[-1].attn.out_proj(weight @ y + bias)) @ visual.proj
    torch.testing.assert_close(features[0, :, 1, 2], wanted, rtol=1e-4, atol=1e-5)


def test_wrong_tower_is_refused():
    with pytest.raises(UserError, match=r"SAN.*MODEL\.CLIP\.NAME"):
        vit.require_vit(torch.nn.Linear(2, 2), "SAN")

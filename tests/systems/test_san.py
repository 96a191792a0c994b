"""SAN's own parts against their published forms."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from conformance.systems.san import dense_mask

from twostage.clip.regions import shadow_tokens as recognition
from twostage.clip.towers.vit import embed_image, run_blocks
from twostage.systems.two_stage.san.side_adapter import MaskDecoder, SideAdapter
from twostage.systems.two_stage.san.weights import checkpoint_table


def adapter(**changes):
    settings = {
        "clip_width": 64,
        "clip_heads": 2,
        "width": 48,
        "depth": 3,
        "heads": 2,
        "patch_size": 8,
        "image_size": 32,
        "num_queries": 5,
        "fusion_map": {0: 0, 1: 2},
        "auxiliary_blocks": [2],
        "decoder_channels": 16,
    }
    return SideAdapter(**(settings | changes))


def test_folded_attention_bias_equals_the_plain_product():
    torch.manual_seed(0)
    decoder = MaskDecoder(width=12, channels=8, heads=3)
    queries, pixels = torch.randn(2, 4, 12), torch.randn(2, 12, 5, 6)
    q = decoder.query_mlp(queries)
    maps = decoder.attn_mlp(pixels).unflatten(1, (3, 8))
    bias = torch.einsum("bqc,bnchw->bnqhw", q, maps)
    bias = bias * decoder.bias_scaling.weight + decoder.bias_scaling.bias
    torch.testing.assert_close(decoder(queries, pixels).attention_bias, bias, rtol=1e-4, atol=1e-5)


def test_shadow_tokens_equal_the_dense_mask_form(tiny_clip):
    """The published form: shadow tokens in one sequence with class and patches, under an additive mask."""
    torch.manual_seed(0)
    blocks = list(tiny_clip.visual.transformer.resblocks)
    tokens, _ = run_blocks(blocks[:2], embed_image(tiny_clip.visual, torch.randn(1, 3, 40, 32)))
    bias = 3 * torch.randn(1, 2, 6, 10, 8)
    ours = recognition.recognise_masks(tiny_clip.visual, blocks[2:], tokens, bias)
    mask = dense_mask(recognition.pool_bias(bias, tokens.grid)[0])
    x = torch.cat([tokens.class_token.expand(-1, 6, -1), tokens.x], dim=1)
    for block in blocks[2:]:
        x = block(x, attn_mask=mask)
    wanted = F.normalize(tiny_clip.visual.ln_post(x[:, :6]) @ tiny_clip.visual.proj, dim=-1)
    torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-5)


def test_bias_is_max_pooled():
    bias = torch.zeros(1, 1, 1, 4, 4)
    bias[..., 1, 2] = 7.0
    assert recognition.pool_bias(bias, (2, 2)).flatten().tolist() == [0, 7, 0, 0]


def test_queries_follow_their_own_bias(tiny_clip):
    """Permuting masks permutes embeddings; a mask is not touched by the others."""
    blocks = list(tiny_clip.visual.transformer.resblocks)
    tokens, _ = run_blocks(blocks[:2], embed_image(tiny_clip.visual, torch.randn(1, 3, 32, 32)))
    bias = 3 * torch.randn(1, 2, 4, 8, 8)
    all_at_once = recognition.recognise_masks(tiny_clip.visual, blocks[2:], tokens, bias)
    alone = recognition.recognise_masks(tiny_clip.visual, blocks[2:], tokens, bias[:, :, [2]])
    torch.testing.assert_close(all_at_once[:, [2]], alone, rtol=1e-4, atol=1e-5)


def test_auxiliary_outputs_only_in_training():
    model = adapter()
    clip_maps = {0: torch.randn(1, 64, 3, 4), 2: torch.randn(1, 64, 3, 4)}
    images = torch.randn(1, 3, 32, 40)
    assert len(model.train()(images, clip_maps)) == 2
    (final,) = model.eval()(images, clip_maps)
    assert final.mask_logits.shape == (1, 5, 4, 5) and final.attention_bias.shape == (1, 2, 5, 4, 5)


def test_position_embedding_quirk():
    """It is resized where the number of positions differs, not where the shape does."""
    model = adapter()
    assert model._position_embedding((4, 4)) is model.pos_embed
    assert model._position_embedding((2, 8)) is model.pos_embed
    assert model._position_embedding((4, 5)).shape == (1, 20, 48)


@pytest.mark.parametrize(("variant", "split"), [("base", 9), ("large", 18)])
def test_every_official_tensor_is_accounted_for(reference, variant, split):
    keys = json.loads((reference / "san" / f"keys-{variant}.json").read_text())
    tensors = {name: torch.zeros(()) for name in keys}
    table = checkpoint_table(split)
    assert table.recognises(tensors)
    ours = table.to_ours(tensors, source="keys")
    assert len(ours) == len(tensors) - 2
    assert sorted(table.to_official(ours)) == sorted(set(keys) - {"criterion.empty_weight", "ov_classifier.attn_mask"})

"""Pixel decoder and masked decoder of Mask2Former against their definitions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twostage.proposals.masked_decoder import MaskedDecoder, features_on_grid
from twostage.proposals.pixel_decoder import PixelDecoder, PixelFeatures

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}


def decoder() -> MaskedDecoder:
    torch.manual_seed(0)
    return MaskedDecoder(num_queries=6, width=16, mask_width=8, heads=4, layers=4, hidden=24)


def pixels() -> PixelFeatures:
    torch.manual_seed(1)
    levels = [torch.randn(2, 16, 2 * 2**i, 3 * 2**i) for i in range(3)]
    return PixelFeatures(levels, torch.randn(2, 8, 16, 24))


def test_pixel_decoder_shapes_and_stride_four_step():
    torch.manual_seed(0)
    model = PixelDecoder(channels=CHANNELS, width=32, mask_width=8, heads=4, layers=2, hidden=16, points=2)
    maps = {name: torch.randn(1, CHANNELS[name], 32 // 2**i, 48 // 2**i) for i, name in enumerate(CHANNELS)}
    out = model(maps)
    assert [tuple(m.shape) for m in out.levels] == [(1, 32, 4, 6), (1, 32, 8, 12), (1, 32, 16, 24)]
    up = F.interpolate(out.levels[-1], size=(32, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out.mask_features, model.mask_features(model.output(model.lateral(maps["res2"]) + up)))


def test_levels_know_where_they_are():
    """A constant picture does not give constant tokens: position codes and level embeddings take part."""
    torch.manual_seed(0)
    model = PixelDecoder(channels=CHANNELS, width=32, mask_width=8, heads=4, layers=1, hidden=16, points=2)
    torch.nn.init.normal_(model.layers[0].attention.sampling_offsets.weight)
    maps = {name: torch.ones(1, CHANNELS[name], 32 // 2**i, 48 // 2**i) for i, name in enumerate(CHANNELS)}
    assert model(maps).levels[-1].flatten(2).std(dim=-1).max() > 1e-3


def test_pixel_decoder_is_in_full_precision_under_autocast():
    model = PixelDecoder(channels=CHANNELS, width=32, mask_width=8, heads=4, layers=1, hidden=16, points=2)
    maps = {name: torch.randn(1, CHANNELS[name], 32 // 2**i, 32 // 2**i) for i, name in enumerate(CHANNELS)}
    plain = model(maps).mask_features
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model({name: m.bfloat16() for name, m in maps.items()}).mask_features
    assert cast.dtype == torch.float32
    assert (cast - plain).abs().max() < 0.1


def test_training_also_gives_every_earlier_prediction():
    model = decoder()
    outputs = model(pixels())
    assert len(outputs) == 5
    (final,) = model.eval()(pixels())
    torch.testing.assert_close(final.mask_logits, outputs[0].mask_logits)
    first = model.norm(model.query_feat.weight)
    torch.testing.assert_close(outputs[1].queries[0], first)
    wanted = torch.einsum("qc,chw->qhw", model.mask_embed(first), pixels().mask_features[0])
    torch.testing.assert_close(outputs[1].mask_logits[0], wanted, rtol=1e-4, atol=1e-5)


def test_attention_mask_is_the_resized_mask():
    """Resizing features, which is cheaper, is the same as resizing masks."""
    model, features = decoder(), pixels().mask_features
    queries = torch.randn(2, 6, 16)
    masks = torch.einsum("bqc,bchw->bqhw", model.mask_embed(queries), features)
    wanted = F.interpolate(masks, size=(4, 6), mode="bilinear", align_corners=False).flatten(2) >= 0
    allowed = model.attention_mask(queries, features_on_grid(features, (4, 6)))
    assert wanted.any(dim=-1).all() and torch.equal(allowed, wanted) and not allowed.all()


def test_an_empty_mask_allows_everything():
    model = decoder()
    model.mask_embed = torch.nn.Identity()
    features = torch.ones(1, 16, 2, 2)
    queries = torch.stack([torch.full((16,), -1.0), torch.ones(16)])[None]
    assert model.attention_mask(queries, features).all()
    features[..., 0] = -1
    assert model.attention_mask(queries, features)[0].tolist() == [[True, False] * 2, [False, True] * 2]


def test_queries_see_levels_in_turn_under_a_mask():
    model = decoder().eval()
    seen = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _m, args: seen.append((args[2].shape[1], args[4])))
    inputs = pixels()
    model(inputs)
    assert [tokens for tokens, _ in seen] == [6, 24, 96, 6]
    assert all(mask.any(dim=-1).all() for _, mask in seen)

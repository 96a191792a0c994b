"""The published order of operations: what it equals bit for bit, and that the cheaper forms are equal but for rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conformance.rounding import published_rounding
from twostage.inference.fourier import wide_convolution
from twostage.proposals import transformer
from twostage.proposals.backbones.swin import Swin
from twostage.proposals.deformable_attention import DeformableAttention, reference_points
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.pixel_decoder import PixelDecoder, PixelFeatures
from twostage.systems.one_stage.cost_aggregation.head import LogitHead


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_torchs_bit_for_bit(masked):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(64, 8, batch_first=True)
    nn.init.normal_(layer.in_proj_bias)
    q, k, v = torch.randn(1, 30, 64), torch.randn(1, 90, 64), torch.randn(1, 90, 64)
    allowed = torch.rand(1, 30, 90) < 0.6 if masked else None
    # With its weights asked for, torch does not fuse the steps.
    wanted, _ = layer(q, k, v, attn_mask=None if allowed is None else ~allowed.repeat_interleave(8, dim=0))
    with published_rounding():
        assert torch.equal(transformer.attend(layer, q, k, v, allowed), wanted)
    torch.testing.assert_close(transformer.attend(layer, q, k, v, allowed), wanted)


def test_sampling_sums_all_points_of_all_levels_at_once():
    torch.manual_seed(0)
    grids = [(4, 6), (8, 12)]
    layer = DeformableAttention(width=32, heads=4, levels=2, points=3)
    nn.init.normal_(layer.sampling_offsets.weight, std=0.1)
    nn.init.normal_(layer.attention_weights.weight)
    x, position = torch.randn(1, 120, 32), torch.randn(1, 120, 32)
    # The definition (Deformable DETR, equation 3), head by head.
    values = layer.value_proj(x)[0].view(120, 4, 8)
    offsets = layer.sampling_offsets(x + position)[0].view(120, 4, 2, 3, 2)
    weights = layer.attention_weights(x + position)[0].view(120, 4, 6).softmax(-1)
    sizes = torch.tensor([[6.0, 4.0], [12.0, 8.0]])
    points = reference_points(grids, x.device)[:, None, None, None] + offsets / sizes[:, None]
    heads = []
    for head in range(4):
        samples = []
        for level, (maps, grid) in enumerate(zip(values[:, head].split([24, 96]), grids, strict=True)):
            grid_points = 2 * points[None, :, head, level] - 1
            samples.append(F.grid_sample(maps.T.reshape(1, 8, *grid), grid_points, align_corners=False))
        heads.append((torch.cat(samples, dim=-1)[0] * weights[:, head]).sum(-1))
    wanted = layer.output_proj(torch.cat(heads).T.contiguous())[None]
    with published_rounding():
        assert torch.equal(layer(x, position, grids), wanted)
    torch.testing.assert_close(layer(x, position, grids), wanted, rtol=1e-4, atol=1e-5)


def test_attention_masks_are_resized_masks_bit_for_bit():
    """Columns cancel almost, so that every pixel of a coarse mask lies on the threshold and rounding decides."""
    torch.manual_seed(0)
    features = 1e3 * torch.randn(1, 8, 16, 1) * torch.tensor([1.0, -1.0]).repeat(12) + 1e-4 * torch.randn(1, 8, 16, 24)
    model = MaskedDecoder(num_queries=6, width=16, mask_width=8, heads=4, layers=3, hidden=24).eval()
    pixels = PixelFeatures([torch.randn(1, 16, 2 * 2**i, 3 * 2**i) for i in range(3)], features)
    seen = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _m, args: seen.append((args[0], args[4])))
    with published_rounding():
        model(pixels)
    flipped = 0
    for (x, allowed), level in zip(seen, pixels.levels, strict=True):
        small = F.interpolate(features, size=level.shape[2:], mode="bilinear", align_corners=False)
        flipped += (model.attention_mask(model.norm(x), small) != allowed).sum()
        masks = model.with_masks(model.norm(x), pixels.mask_features).mask_logits
        resized = F.interpolate(masks, size=level.shape[2:], mode="bilinear", align_corners=False).flatten(2)
        inside = resized.sigmoid() >= 0.5
        assert torch.equal(allowed, inside | ~inside.any(-1, keepdim=True))
    assert flipped > 0
    # With masks that have a clear edge the cheaper form gives the same.
    pixels = pixels._replace(mask_features=torch.randn(1, 8, 16, 24))
    with published_rounding():
        (published,) = model(pixels)
    torch.testing.assert_close(model(pixels)[0].mask_logits, published.mask_logits, rtol=1e-4, atol=1e-4)


def test_backbone_and_pixel_decoder_differ_in_rounding_only():
    torch.manual_seed(0)
    swin = Swin(embed_dim=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4).eval()
    decoder = PixelDecoder(
        channels={f"res{i + 2}": 16 * 2**i for i in range(4)},
        width=32,
        mask_width=8,
        heads=4,
        layers=2,
        hidden=16,
        points=2,
    )
    image = torch.randn(2, 3, 72, 104)
    with torch.no_grad():
        cheaper = decoder(swin(image)).mask_features
        with published_rounding():
            published = decoder(swin(image)).mask_features
    assert not torch.equal(cheaper, published)
    torch.testing.assert_close(cheaper, published, rtol=1e-4, atol=1e-5)


def test_convolutions_of_costs_are_torchs_bit_for_bit():
    torch.manual_seed(0)
    embed, head = nn.Conv2d(32, 32, kernel_size=7, padding=3), LogitHead(32)
    plain = nn.Conv2d(32, 1, kernel_size=3, padding=1)
    plain.load_state_dict(head.state_dict())
    maps = torch.randn(16, 32, 9, 12)
    with torch.inference_mode():
        with published_rounding():
            assert wide_convolution(embed, 16, (9, 12)) is embed
            assert torch.equal(head(maps), plain(maps))
        assert not torch.equal(head(maps), plain(maps))
        torch.testing.assert_close(head(maps), plain(maps), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(wide_convolution(embed, 16, (9, 12))(maps), embed(maps), rtol=1e-5, atol=1e-5)

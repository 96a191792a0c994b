"""MaskFormer's pyramid and decoder against torch's own layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from twostage.proposals.fpn import FPNPixelDecoder
from twostage.proposals.maskformer import MaskFormer

CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 40}


def features():
    torch.manual_seed(0)
    sizes = {"res2": (17, 23), "res3": (9, 12), "res4": (5, 6), "res5": (3, 3)}
    return {name: torch.randn(2, CHANNELS[name], *size) for name, size in sizes.items()}


def test_pyramid_adds_the_nearest_coarser_map():
    torch.manual_seed(0)
    decoder = FPNPixelDecoder(channels=CHANNELS, width=32, mask_channels=12)
    maps = features()

    def conv(name, x):
        layer = getattr(decoder, name)
        x = F.conv2d(x, layer.weight, padding=layer.weight.shape[-1] // 2)
        return F.group_norm(x, 32, layer.norm.weight, layer.norm.bias)

    x = conv("layer_4", maps["res5"]).relu()
    for level, name in ((3, "res4"), (2, "res3"), (1, "res2")):
        lateral = conv(f"adapter_{level}", maps[name])
        x = conv(f"layer_{level}", lateral + F.interpolate(x, size=lateral.shape[-2:], mode="nearest")).relu()
    wanted = F.conv2d(x, decoder.mask_features.weight, decoder.mask_features.bias, padding=1)
    torch.testing.assert_close(decoder(maps), wanted, rtol=1e-4, atol=1e-5)


def generator():
    torch.manual_seed(0)
    return MaskFormer(
        channels=CHANNELS, num_queries=7, width=32, mask_channels=12, layers=3, heads=4, hidden=48, dropout=0.0
    )


def test_decoder_equals_torch_attention():
    """DETR's post-norm layers, written with torch's MultiheadAttention."""
    model = generator().eval()
    maps = features()
    memory = F.conv2d(maps["res5"], model.input_proj.weight, model.input_proj.bias).flatten(2).transpose(1, 2)
    from twostage.proposals.position import sine_position_code

    position = sine_position_code((3, 3), 32, memory.device)[None]
    query = model.query_embed.weight[None].expand(2, -1, -1)
    x = torch.zeros(2, 7, 32)
    outputs = []
    for layer in model.layers:
        own, cross, hidden = layer.self_attention, layer.cross_attention, layer.feed_forward
        x = own.norm(x + own.attn(x + query, x + query, x, need_weights=False)[0])
        x = cross.norm(x + cross.attn(x + query, memory + position, memory, need_weights=False)[0])
        x = hidden.norm(x + hidden.linear2(hidden.linear1(x).relu()))
        outputs.append(F.layer_norm(x, (32,), model.norm.weight, model.norm.bias))
    for ours, wanted in zip(model.decode(maps["res5"]), outputs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_masks_are_inner_products_of_the_last_layer():
    model = generator()
    maps = features()
    proposals = model(maps)
    # The final output first, then the layers before it in order.
    queries = model.decode(maps["res5"])
    for proposal, query in zip(proposals, [queries[2], queries[0], queries[1]], strict=True):
        torch.testing.assert_close(proposal.queries, query)
    (only,) = model.eval()(maps)
    wanted = torch.einsum("bqc,bchw->bqhw", model.mask_embed(queries[2]), model.pixel_decoder(maps))
    torch.testing.assert_close(only.mask_logits, wanted)


def test_dropout_sits_in_attention_and_feed_forward():
    model = MaskFormer(
        channels=CHANNELS, num_queries=7, width=32, mask_channels=12, layers=2, heads=4, hidden=48, dropout=0.3
    )
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    attention = [m.dropout for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    assert rates == [0.3] * 6 and attention == [0.3] * 4

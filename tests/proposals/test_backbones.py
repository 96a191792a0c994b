"""Backbones against torchvision's, independent slow forms and the published tensor lists."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from twostage.config import load_config
from twostage.errors import UserError
from twostage.proposals.backbones import ResNet, Swin
from twostage.proposals.backbones.swin import (
    WindowAttention,
    merge_windows,
    partition_windows,
    relative_position_index,
    shifted_window_mask,
)

ALL = ("res2", "res3", "res4", "res5")


def tiny_swin(**changes) -> Swin:
    torch.manual_seed(0)
    return Swin(**({"embed_dim": 8, "depths": (2, 2), "heads": (2, 4), "window": 4, "out_features": ALL[:2]} | changes))


def test_resnet_equals_torchvision():
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = ResNet(depth=50, out_features=ALL, norm="FrozenBN").eval()
    state = {}
    for name, value in theirs.state_dict().items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for number in range(1, 5):
            name = name.replace(f"layer{number}.", f"res{number + 1}.")
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        for number in range(1, 4):
            name = name.replace(f"bn{number}.", f"conv{number}.norm.")
        state[name if name.startswith("res") else f"stem.{name}"] = value
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 64, 96)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    maps = ours(images)
    for number in range(1, 5):
        x = getattr(theirs, f"layer{number}")(x)
        torch.testing.assert_close(maps[f"res{number + 1}"], x, rtol=1e-4, atol=1e-4)


def test_resnet_variants_have_the_published_shape():
    model = ResNet(
        depth=14,
        out_features=("res3", "res5"),
        norm="FrozenBN",
        stem_type="deeplab",
        stem_channels=128,
        res5_multi_grid=(2, 4, 8),
        freeze_at=2,
    )
    names = dict(model.named_parameters())
    assert names["stem.conv1.weight"].shape == (64, 3, 3, 3) and names["stem.conv3.weight"].shape == (128, 64, 3, 3)
    assert names["res2.0.shortcut.weight"].shape == (256, 128, 1, 1)
    assert not names["stem.conv1.weight"].requires_grad and not names["res2.0.conv1.weight"].requires_grad
    assert names["res3.0.conv1.weight"].requires_grad
    assert model.res5[0].conv2.dilation == (2, 2) and model.res5[0].conv2.stride == (2, 2)
    assert {name: (s.channels, s.stride) for name, s in model.output_shape().items()} == {
        "res3": (512, 8),
        "res5": (2048, 32),
    }
    maps = model(torch.randn(1, 3, 64, 64))
    assert maps["res3"].shape == (1, 512, 8, 8) and maps["res5"].shape == (1, 2048, 2, 2)
    assert not hasattr(ResNet(depth=14, out_features=("res4",), norm="BN"), "res5")


def test_windows_round_trip():
    x = torch.randn(2, 8, 12, 3)
    windows = partition_windows(x, 4)
    assert windows.shape == (2, 6, 16, 3)
    torch.testing.assert_close(windows[0, 4], x[0, 4:8, 4:8].flatten(0, 1))
    torch.testing.assert_close(merge_windows(windows, (8, 12)), x)


def test_shifted_mask_lets_only_old_neighbours_meet():
    grid, window, shift = (8, 12), 4, 2
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    rolled = torch.stack([rows, columns], dim=-1).roll((-shift, -shift), dims=(0, 1))
    places = partition_windows(rolled[None].float(), window)[0]
    # After the shift a window holds old neighbours, unless it wraps around the border.
    near = (places[:, :, None] - places[:, None]).abs().amax(dim=-1) < window
    mask = shifted_window_mask(grid, window, shift, torch.device("cpu"))
    assert torch.equal(mask == 0, near) and mask.min() == -100


def test_relative_position_index():
    index = relative_position_index(3)
    # Query (2, 1), key (0, 2): two down, one left.
    assert index[7, 2] == (2 + 2) * 5 + (-1 + 2)
    assert index.diagonal().unique().tolist() == [12]


@pytest.mark.parametrize("masked", [False, True])
def test_window_attention_equals_the_plain_form(masked):
    torch.manual_seed(0)
    layer = WindowAttention(width=12, heads=3, window=2)
    nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(2, 5, 4, 12)
    mask = torch.where(torch.rand(5, 4, 4) < 0.3, -100.0, 0.0) if masked else None
    q, k, v = layer.qkv(x).view(2, 5, 4, 3, 3, 4).unbind(3)
    out = torch.empty(2, 5, 4, 3, 4)
    for head in range(3):
        scores = (q[..., head, :] * 0.5) @ k[..., head, :].transpose(-1, -2)
        for a in range(4):
            for b in range(4):
                scores[..., a, b] += layer.relative_position_bias_table[layer.relative_position_index[a, b], head]
        out[..., head, :] = (scores if mask is None else scores + mask).softmax(-1) @ v[..., head, :]
    torch.testing.assert_close(layer(x, mask), layer.proj(out.flatten(3)), rtol=1e-4, atol=1e-5)


def test_swin_takes_any_size():
    model = tiny_swin().eval()
    maps = model(torch.randn(2, 3, 37, 50))
    assert maps["res2"].shape == (2, 8, 10, 13) and maps["res3"].shape == (2, 16, 5, 7)
    # A stage's map is normalised over its channels.
    assert maps["res3"].mean(dim=1).abs().max() < 1e-5


def test_swin_patch_merging_order():
    layer = tiny_swin().layers[0].downsample
    x = torch.zeros(1, 3, 2, 8)
    x[0, 1, 0] = 1.0  # second row, first column: second quarter
    seen = {}
    layer.norm.register_forward_hook(lambda _m, args, _o: seen.update(x=args[0]))
    assert layer(x).shape == (1, 2, 1, 16)
    assert seen["x"][0, 0, 0].nonzero().flatten().tolist() == list(range(8, 16))


def test_drop_path_grows_with_depth():
    model = tiny_swin(drop_path_rate=0.3)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_backbones_from_config():
    cfg = load_config(
        "", ["MODEL.BACKBONE.NAME", "swin", "MODEL.SWIN.EMBED_DIM", "24", "MODEL.SWIN.HEADS", "[1,2,4,8]"]
    )
    backbone = build_backbone(cfg)
    assert isinstance(backbone, Swin) and backbone.output_shape()["res5"].channels == 192
    assert isinstance(build_backbone(load_config("", ["MODEL.RESNETS.DEPTH", "14"])), ResNet)
    with pytest.raises(UserError, match=r"MODEL\.SWIN\.HEADS"):
        load_config("", ["MODEL.SWIN.HEADS", "[5,6,12,24]"])


@pytest.mark.parametrize(
    ("file", "backbone"),
    [
        ("mask2former/keys-r50-ade.json", {"depth": 50, "norm": "FrozenBN"}),
        ("mask2former/keys-r101-ade.json", {"depth": 101, "norm": "SyncBN"}),
        ("mask2former/keys-swinb-ade.json", {"embed_dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}),
        ("mask2former/keys-swinl-ade.json", {"embed_dim": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48)}),
        ("ovseg/keys-base.json", {"depth": 101, "norm": "FrozenBN", "stem_type": "deeplab", "stem_channels": 128}),
        ("ovseg/keys-large.json", {"embed_dim": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)}),
    ],
)
def test_published_tensors(reference, file, backbone):
    """Names and shapes of published checkpoints are ours under `backbone.`."""
    with torch.device("meta"):
        model = (
            ResNet(**backbone, out_features=ALL)
            if "depth" in backbone
            else Swin(**backbone, window=12, out_features=ALL)
        )
    ours = {f"backbone.{name}": list(value.shape) for name, value in model.state_dict().items()}
    published = json.loads((reference / file).read_text())
    assert ours == {name: e["shape"] for name, e in published.items() if name.startswith("backbone.")}


def test_padding_follows_the_norm():
    """Tokens beyond the border are zero keys, not normalised zeros."""
    block = tiny_swin().layers[0].blocks[0]
    nn.init.ones_(block.norm1.bias)
    seen = {}
    block.attn.register_forward_pre_hook(lambda _m, args: seen.update(x=args[0]))
    block(torch.randn(1, 5, 4, 8))
    assert seen["x"].shape == (1, 2, 16, 8)
    assert seen["x"][0, 1, 4:].abs().max() == 0 and seen["x"][0, 1, :4].abs().min() > 0

"""DINO's and DINOv2's towers against timm's, position tables by the authors' rules, weights in three layouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from twostage.errors import UserError
from twostage.foundation import loading
from twostage.foundation.loading import as_official, read_foundation
from twostage.foundation.vit import FoundationVit, VitShape

PLAIN = VitShape(patch=4, table=5, width=12, depth=2, heads=3, rule="scale_by_shape", timm="tiny")
REGISTERS = dataclasses.replace(PLAIN, rule="antialias", registers=2, layer_scale=True)


def tower(shape: VitShape) -> FoundationVit:
    """With random weights in every tensor."""
    torch.manual_seed(0)
    model = FoundationVit(shape=shape)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return model.eval()


def timm_tower(shape: VitShape) -> VisionTransformer:
    """timm's network of the same kind, which fits its table to any picture."""
    return VisionTransformer(
        img_size=shape.patch * shape.table,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        num_classes=0,
        init_values=1.0 if shape.layer_scale else None,
        reg_tokens=shape.registers,
        no_embed_class=bool(shape.registers),
        dynamic_img_size=True,
    ).eval()


def to_timm(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DINOv2's tensors as timm keeps them: the class token with its position, the table without it."""
    result = {"reg_token" if name == "register_tokens" else name: value for name, value in official.items()}
    result["cls_token"] = result["cls_token"] + result["pos_embed"][:, :1]
    result["pos_embed"] = result["pos_embed"][:, 1:]
    return result


@torch.no_grad()
def test_dino_equals_timm_where_the_table_fits() -> None:
    ours, theirs = tower(PLAIN), timm_tower(PLAIN)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 20, 20)
    patches = theirs.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (5, 5))
    torch.testing.assert_close(ours(images), patches)


@torch.no_grad()
@pytest.mark.parametrize("size", [(20, 20), (24, 32)])
def test_dinov2_with_registers_equals_timm_at_any_size(size: tuple[int, int]) -> None:
    ours, theirs = tower(REGISTERS), timm_tower(REGISTERS)
    theirs.load_state_dict(to_timm(ours.state_dict()))
    images = torch.randn(2, 3, *size)
    patches = theirs.forward_features(images)[:, 3:].transpose(1, 2).unflatten(2, (size[0] // 4, size[1] // 4))
    torch.testing.assert_close(ours(images), patches, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dinos_table_is_fitted_by_factors_unless_the_shape_is_its_own() -> None:
    model = tower(dataclasses.replace(PLAIN, table=4))
    square = model.pos_embed[0, 1:].T.unflatten(1, (4, 4))[None]
    # As many patches as the table has, but in another shape.
    x, grid = model.embed(torch.zeros(1, 3, 8, 32))
    factors = ((2 + 0.1) / 4, (8 + 0.1) / 4)
    wanted = F.interpolate(square, scale_factor=factors, mode="bicubic", align_corners=False)[0].flatten(1).T
    assert grid == (2, 8)
    torch.testing.assert_close(x[0, 1:], wanted + model.patch_embed.proj.bias)


def to_transformers(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of transformers' ViT (DINO), with queries, keys and values apart."""
    result = {}
    inside = {
        "norm1.": "layernorm_before.",
        "norm2.": "layernorm_after.",
        "attn.proj.": "attention.output.dense.",
        "mlp.fc1.": "intermediate.dense.",
        "mlp.fc2.": "output.dense.",
    }
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    for name, value in official.items():
        if name in outside:
            result[outside[name]] = value
            continue
        _, number, rest = name.split(".", 2)
        layer = f"encoder.layer.{number}."
        if rest.startswith("attn.qkv."):
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                result[f"{layer}attention.attention.{part}.{rest.rpartition('.')[2]}"] = piece
        else:
            start = next(prefix for prefix in inside if rest.startswith(prefix))
            result[layer + inside[start] + rest.removeprefix(start)] = value
    return result | {"pooler.dense.weight": torch.zeros(12, 12)}


def test_transformers_layout_is_the_same_model() -> None:
    official = tower(PLAIN).state_dict()
    read = as_official(to_transformers(official), table=5)
    assert read.keys() == official.keys() and all(torch.equal(read[name], official[name]) for name in official)


@torch.no_grad()
def test_files_in_any_layout_are_told_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading.SHAPES, "dinov2_vitb14_reg", REGISTERS)
    model = tower(REGISTERS)
    official = model.state_dict()
    images = torch.randn(1, 3, 24, 20)
    for number, tensors in enumerate((official | {"mask_token": torch.zeros(1, 12)}, to_timm(official))):
        path = tmp_path / f"{number}.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        again = FoundationVit(shape=REGISTERS).eval()
        again.load_state_dict(read_foundation("dinov2_vitb14_reg", str(path)))
        torch.testing.assert_close(again(images), model(images))
    save_file(tower(PLAIN).state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit this MODEL\.FOUNDATION\.NAME dinov2_vitb14_reg"):
        read_foundation("dinov2_vitb14_reg", str(path))
    with pytest.raises(UserError, match=r"MODEL\.FOUNDATION\.PRETRAINED is 'no\.pth', which is no file"):
        read_foundation("dinov2_vitb14_reg", "no.pth")

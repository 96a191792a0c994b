"""Last-block attentions, two-path methods and other towers against their written-out formulas."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F

from twostage.clip.dense.attentions import last_block, neighbourhood_bias, weigh_values
from twostage.clip.dense.tower import DenseTower, use_exact_gelu
from twostage.clip.dense.two_path import gem
from twostage.clip.towers.resnet import resnet_dense
from twostage.clip.towers.vit import embed_image, resize_position_embedding, run_blocks, value_path_features
from twostage.errors import UserError


def unused() -> torch.Tensor:
    raise AssertionError("this attention needs no bias")


def softmax_attention(a, b, v, extra=0.0):
    return ((a @ b.transpose(-1, -2)) * a.shape[-1] ** -0.5 + extra).softmax(-1) @ v


@pytest.mark.parametrize("name", ["vanilla", "maskclip", "sclip", "naclip", "key_key", "neighbourhood", "clearclip"])
def test_attention_matrices(name):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 13, 6)
    bias = neighbourhood_bias((3, 4), 1.5)
    strength = (q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]).mean(dim=(1, 2, 3)) / 6**0.5
    wanted = {
        "vanilla": lambda: softmax_attention(q, k, v),
        "maskclip": lambda: v,
        "sclip": lambda: softmax_attention(q, q, v) + softmax_attention(k, k, v),
        "naclip": lambda: softmax_attention(k, k, v, bias),
        "key_key": lambda: softmax_attention(k, k, v),
        "neighbourhood": lambda: (strength[:, None, None, None] * bias).softmax(-1) @ v,
        "clearclip": lambda: softmax_attention(q, q, v),
    }[name]()
    ours = weigh_values(name, {"q": q, "k": k, "v": v}, lambda: bias)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_the_neighbourhood_is_a_gaussian_of_distance_and_spares_the_class_token():
    bias = neighbourhood_bias((3, 5), 2.0)
    assert bias.shape == (16, 16)
    assert not bias[0].any() and not bias[:, 0].any()
    # Patches (0, 1) and (2, 4): distance squared 4 + 9.
    assert float(bias[1 + 1, 1 + 2 * 5 + 4]) == pytest.approx(float(torch.tensor(-13 / 8).exp()))
    assert torch.equal(bias.diagonal()[1:], torch.ones(15))


@torch.no_grad()
def test_vanilla_and_full_is_the_block_itself(tiny_clip):
    visual = tiny_clip.visual
    tokens = embed_image(visual, torch.randn(2, 3, 32, 40))
    block = visual.transformer.resblocks[0]
    ours = last_block(block, tokens.x, attention="vanilla", full=True, bias=unused)
    torch.testing.assert_close(ours, block(tokens.x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_reduced_maskclip_is_the_value_path(tiny_clip):
    images = torch.randn(2, 3, 32, 40)
    tower = DenseTower(visual=tiny_clip.visual, method="maskclip", full=False)
    torch.testing.assert_close(tower(images).patches, value_path_features(tiny_clip.visual, images))


@torch.no_grad()
def test_keys_are_projected_and_leave_the_class_token_out(tiny_clip):
    visual, images = tiny_clip.visual, torch.randn(1, 3, 32, 40)
    keys = DenseTower(visual=visual, method="maskclip", with_keys=True)(images).keys
    blocks = visual.transformer.resblocks
    tokens, _ = run_blocks(blocks[:-1], embed_image(visual, images))
    attention = blocks[-1].attn
    k = F.linear(blocks[-1].ln_1(tokens.x), attention.in_proj_weight[64:128], attention.in_proj_bias[64:128])
    torch.testing.assert_close(keys, attention.out_proj(k)[:, 1:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_clip_surgery_adds_value_attention_of_the_original_path(tiny_clip):
    visual, images = tiny_clip.visual, torch.randn(1, 3, 32, 32)
    features = DenseTower(visual=visual, method="clip_surgery", split_depth=2)(images)
    blocks = visual.transformer.resblocks
    x = run_blocks(blocks[:2], embed_image(visual, images))[0].x
    new = x
    for block in blocks[2:]:
        v = F.linear(block.ln_1(x), block.attn.in_proj_weight[128:], block.attn.in_proj_bias[128:])
        v = v.view(1, 17, 2, 32).transpose(1, 2)
        new = new + block.attn.out_proj(softmax_attention(v, v, v).transpose(1, 2).reshape(1, 17, 64))
        x = block(x)
    wanted = (visual.ln_post(new) @ visual.proj)[:, 1:].transpose(1, 2).view(1, 24, 4, 4)
    torch.testing.assert_close(features.patches, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.class_embedding, visual(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gem_is_the_mean_of_three_self_attentions(tiny_clip):
    block = tiny_clip.visual.transformer.resblocks[1]
    y = torch.randn(2, 9, 64)
    q, k, v = (p.view(2, 9, 2, 32).transpose(1, 2) for p in
               F.linear(y, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1))  # fmt: skip
    t = y.norm(dim=-1).mean(1).view(2, 1, 1, 1) / 32**0.5

    def unit(z):
        return z / z.norm(dim=-1, keepdim=True)

    total = 0
    for z in (v, k, q):
        z = unit(z)
        z = unit((t * z @ z.transpose(-1, -2)).softmax(-1) @ z)
        total = total + (t * z @ z.transpose(-1, -2)).softmax(-1) @ v
    wanted = (total / 3).transpose(1, 2).reshape(2, 9, 64)
    torch.testing.assert_close(gem(block, y), wanted, rtol=1e-4, atol=1e-5)
    assert (gem(block, y, temperature=1.0) - wanted).abs().max() > 1e-3


def test_position_rules():
    torch.manual_seed(0)
    table = torch.randn(17, 6)
    square = table[1:].T.reshape(1, 6, 4, 4)
    # By count, a grid of another shape with as many patches gets the table as it lies.
    for rule in ("size_by_count", "scale"):
        assert resize_position_embedding(table, (2, 8), rule) is table
    assert (resize_position_embedding(table, (2, 8)) - table).abs().max() > 0.1
    scaled = F.interpolate(square, scale_factor=(5.1 / 4, 6.1 / 4), mode="bicubic")
    torch.testing.assert_close(resize_position_embedding(table, (5, 6), "scale")[1:], scaled[0].flatten(1).T)
    assert (
        resize_position_embedding(table, (5, 6)) - resize_position_embedding(table, (5, 6), "scale")
    ).abs().max() > 0.01
    bilinear = F.interpolate(square, size=(5, 6), mode="bilinear")
    torch.testing.assert_close(resize_position_embedding(table, (5, 6), "bilinear")[1:], bilinear[0].flatten(1).T)
    smoothed = F.interpolate(square, size=(2, 3), mode="bicubic", antialias=True)
    torch.testing.assert_close(resize_position_embedding(table, (2, 3), "antialias")[1:], smoothed[0].flatten(1).T)


class Siglip(torch.nn.Module):
    """As open_clip wraps timm's tower."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, class_token=False, global_pool="map",
            num_classes=0, weight_init="skip",
        )  # fmt: skip
        self.head = torch.nn.Sequential()

    def forward(self, x):
        return self.head(self.trunk(x))


@torch.no_grad()
def test_siglip_tower():
    """A picture of one patch: whatever the attention, that patch is all there is to see, so CLIP's own output comes out."""
    torch.manual_seed(0)
    visual = Siglip().eval()
    for parameter in visual.parameters():
        parameter.copy_(0.2 * torch.randn_like(parameter))
    image = torch.randn(2, 3, 8, 8)
    trunk = visual.trunk
    position = resize_position_embedding(F.pad(trunk.pos_embed[0], (0, 0, 1, 0)), (1, 1))[1:]
    x = trunk.patch_embed.proj(image).flatten(2).transpose(1, 2) + position
    wanted = trunk.forward_head(trunk.norm(trunk.blocks(x)))
    for method in ("vanilla", "key_key", "clearclip", "naclip"):
        tower = DenseTower(visual=visual, method=method, full=True)
        features = tower(image)
        assert features.class_embedding is None and tower.patch_size == (8, 8)
        torch.testing.assert_close(features.patches[:, :, 0, 0], wanted, rtol=1e-4, atol=1e-5)
    whole = DenseTower(visual=visual, method="vanilla")
    tokens, _ = run_blocks(whole.blocks, whole.embed(torch.zeros(1, 3, 32, 32)))
    torch.testing.assert_close(
        tokens.x, trunk.blocks(trunk.norm_pre(trunk.patch_embed(torch.zeros(1, 3, 32, 32)) + trunk.pos_embed))
    )
    for method in ("gem", "clip_surgery"):
        assert DenseTower(visual=visual, method=method, split_depth=2)(torch.randn(1, 3, 16, 24)).patches.shape == (
            1,
            32,
            2,
            3,
        )


def tiny_resnet():
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text).eval()


@torch.no_grad()
def test_resnet_pools_every_cell_on_its_own():
    """Value then output projection, per cell: what the attention pooling gives where all cells are alike."""
    visual = tiny_resnet().visual
    with torch.no_grad():
        visual.attnpool.positional_embedding.zero_()
    x = torch.randn(1, 256, 1, 1).expand(-1, -1, 2, 2)
    wanted = visual.attnpool(x)
    features = DenseTower(visual=visual, method="maskclip", with_keys=True)(torch.randn(1, 3, 64, 96))
    assert features.patches.shape == (1, 24, 2, 3) and features.keys.shape == (1, 6, 256)
    torch.testing.assert_close(resnet_dense(visual, x)[:, :, 0, 1], wanted, rtol=1e-4, atol=1e-5)


def test_a_method_that_does_not_fit_the_tower_is_an_error(tiny_clip):
    with pytest.raises(UserError, match="ResNet"):
        DenseTower(visual=tiny_resnet().visual, method="sclip")
    with pytest.raises(UserError, match="SPLIT_DEPTH"):
        DenseTower(visual=tiny_clip.visual, method="gem", split_depth=5)
    with pytest.raises(UserError, match="plain ViT"):
        DenseTower(visual=torch.nn.Linear(2, 2), method="sclip")


@torch.no_grad()
def test_exact_gelu_replaces_every_activation_and_epsilon(tiny_clip):
    images = torch.randn(1, 3, 32, 32)
    before = tiny_clip.visual(images)
    use_exact_gelu(tiny_clip.visual, norm_eps=1e-6)
    names = {type(module).__name__ for module in tiny_clip.visual.modules()}
    assert "QuickGELU" not in names and "GELU" in names
    assert {m.eps for m in tiny_clip.visual.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert (tiny_clip.visual(images) - before).abs().max() > 1e-4
    assert "QuickGELU" in {type(module).__name__ for module in tiny_clip.transformer.modules()}

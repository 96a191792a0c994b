"""Mask prompts in the image tower: blank patches, layers, the plain tower as the special case, reference outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from twostage.clip.loading import load_clip
from twostage.clip.regions.mask_prompt import (
    add_mask_prompts,
    has_mask_prompts,
    mask_replacement,
    masked_image_embeddings,
    visible_patches,
)
from twostage.clip.towers import vit
from twostage.errors import UserError


@pytest.fixture
def prompted(tiny_clip):
    add_mask_prompts(tiny_clip.visual, 3)
    with torch.no_grad():
        tiny_clip.visual.mask_embedding.copy_(torch.randn(3, 16, 64))
    return tiny_clip.visual


def half_masks():
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, :, :, :9] = 1  # two of four columns of patches, the second by one column of pixels
    masks[1, :, 31, 31] = 1  # a single pixel
    return masks


def test_one_pixel_makes_a_patch_visible():
    visible = visible_patches(half_masks(), 8)[..., 0].unflatten(1, (4, 4))
    assert visible[0].tolist() == [[1, 1, 0, 0]] * 4
    assert visible[1].sum() == 1 and visible[1, 3, 3] == 1


def test_full_masks_give_the_plain_embedding(prompted):
    crops = torch.randn(2, 3, 32, 32)
    ours = masked_image_embeddings(prompted, crops, torch.ones(2, 1, 32, 32))
    torch.testing.assert_close(ours, prompted(crops), rtol=1e-4, atol=1e-5)


def test_prompts_equal_a_slow_run(prompted):
    """Token by token: layer 0 before class token, position and norm, layers 1 and 2 after blocks 1 and 2."""
    crops, masks = torch.randn(2, 3, 32, 32), half_masks()
    visible = visible_patches(masks, 8)[..., 0] > 0
    patches = prompted.conv1(crops).flatten(2).transpose(1, 2)

    def put(tokens, layer):
        tokens = tokens.clone()
        for image in range(2):
            for place in range(16):
                if not visible[image, place]:
                    tokens[image, place] = prompted.mask_embedding[layer, place]
        return tokens

    x = torch.cat([prompted.class_embedding.expand(2, 1, -1), put(patches, 0)], dim=1)
    x = prompted.ln_pre(x + prompted.positional_embedding)
    for index, block in enumerate(prompted.transformer.resblocks, start=1):
        x = block(x)
        if index < 3:
            x = torch.cat([x[:, :1], put(x[:, 1:], index)], dim=1)
    wanted = prompted.ln_post(x[:, 0]) @ prompted.proj
    torch.testing.assert_close(masked_image_embeddings(prompted, crops, masks), wanted, rtol=1e-4, atol=1e-5)


def test_blank_pixels_do_not_matter_visible_ones_do(prompted):
    crops, masks = torch.randn(2, 3, 32, 32), half_masks()
    base = masked_image_embeddings(prompted, crops, masks)
    other = crops.clone()
    other[0, :, :, 16:] = 9.0
    torch.testing.assert_close(masked_image_embeddings(prompted, other, masks)[0], base[0])
    other[0, :, 0, 0] = 9.0
    assert (masked_image_embeddings(prompted, other, masks)[0] - base[0]).abs().max() > 1e-3


def test_smaller_crops_take_resized_prompts(prompted):
    """As the position embedding: a grid of 2 x 2 out of 4 x 4, and nothing to resize where one token serves all patches."""
    masks = torch.zeros(1, 1, 16, 16)
    masks[0, 0, 0, 0] = 1
    replace = mask_replacement(prompted, masks)
    square = prompted.mask_embedding[1].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    small = F.interpolate(square, size=(2, 2), mode="bicubic", align_corners=False)[0].flatten(1).T
    tokens = torch.randn(1, 4, 64)
    wanted = torch.cat([tokens[:, :1], small[None, 1:]], dim=1)
    torch.testing.assert_close(replace(1, tokens), wanted)
    assert masked_image_embeddings(prompted, torch.randn(1, 3, 16, 16), masks).shape[0] == 1
    prompted.mask_embedding = nn.Parameter(torch.randn(3, 1, 64))
    shared = mask_replacement(prompted, masks)(2, tokens)
    assert torch.equal(shared[0, 1:], prompted.mask_embedding[2].expand(3, -1))


def test_gradient_reaches_all_layers_of_prompts(prompted):
    masked_image_embeddings(prompted, torch.randn(2, 3, 32, 32), half_masks()).sum().backward()
    assert (prompted.mask_embedding.grad.flatten(1).norm(dim=1) > 0).all()


def test_depth_is_checked(tiny_clip):
    with pytest.raises(UserError, match=r"MASK_PROMPT_DEPTH is 5.*4 blocks"):
        add_mask_prompts(tiny_clip.visual, 5)
    with pytest.raises(UserError, match=r"shape \(2, 16, 64\)"):
        add_mask_prompts(tiny_clip.visual, 3, torch.zeros(2, 16, 64))


def test_prompts_travel_with_the_weights(tmp_path):
    plain, _ = load_clip("toybox-vit", pretrained="toybox")
    fresh, _ = load_clip("toybox-vit", pretrained="toybox", mask_prompt_depth=2)
    assert not has_mask_prompts(plain.visual) and fresh.visual.mask_embedding.shape[0] == 2
    state = {name: value.contiguous() for name, value in fresh.state_dict().items()}
    save_file(state, tmp_path / "tuned.safetensors")
    again, _ = load_clip("toybox-vit", pretrained=str(tmp_path / "tuned.safetensors"), mask_prompt_depth=2)
    assert torch.equal(again.visual.mask_embedding, fresh.visual.mask_embedding)
    off, _ = load_clip("toybox-vit", pretrained=str(tmp_path / "tuned.safetensors"))
    assert not has_mask_prompts(off.visual)


def test_replacement_beyond_the_depth_changes_nothing(prompted):
    tokens = torch.randn(2, 16, 64)
    replace = mask_replacement(prompted, half_masks())
    assert replace(3, tokens) is tokens
    assert not torch.equal(replace(2, tokens), tokens)


def test_class_token_alone_in_the_last_block(tiny_clip):
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        vit.image_embeddings(tiny_clip.visual, images), tiny_clip.visual(images), rtol=1e-4, atol=1e-5
    )

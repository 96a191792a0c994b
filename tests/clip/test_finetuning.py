"""Parts of CLIP that are trained, and attention weights split for it."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch

from twostage.clip.towers import vit
from twostage.clip.towers.finetuning import split_attention, train_parts


def trained(clip):
    return {name for name, parameter in clip.named_parameters() if parameter.requires_grad}


def test_split_attention_computes_the_same(tiny_clip):
    split = copy.deepcopy(tiny_clip)
    split_attention(split)
    images, tokens = torch.randn(2, 3, 32, 32), open_clip.get_tokenizer("ViT-B-16")(["cat", "a dog"])
    with torch.no_grad():
        torch.testing.assert_close(split.encode_image(images), tiny_clip.encode_image(images))
        torch.testing.assert_close(split.encode_text(tokens), tiny_clip.encode_text(tokens))
        for parts in ("qkv", "v", "kv"):
            for ours, wanted in zip(
                vit.project_qkv(split.visual.transformer.resblocks[1].attn, torch.ones(1, 3, 64), parts),
                vit.project_qkv(tiny_clip.visual.transformer.resblocks[1].attn, torch.ones(1, 3, 64), parts),
                strict=True,
            ):
                torch.testing.assert_close(ours, wanted)
    names = set(split.state_dict())
    assert "visual.transformer.resblocks.0.attn.k_proj_weight" in names
    assert not any("in_proj_weight" in name for name in names)
    split_attention(split)
    assert set(split.state_dict()) == names


def test_query_value_trains_weights_of_both_towers(tiny_clip):
    train_parts(tiny_clip, "query_value")
    wanted = {
        f"{tower}transformer.resblocks.{block}.attn.{letter}_proj_weight"
        for tower, blocks in (("visual.", 4), ("", 2))
        for block in range(blocks)
        for letter in "qv"
    }
    assert trained(tiny_clip) == wanted


def test_other_choices(tiny_clip):
    everything = {name for name, _ in tiny_clip.named_parameters()}
    train_parts(tiny_clip, "none")
    assert trained(tiny_clip) == set()
    train_parts(tiny_clip, "visual")
    assert trained(tiny_clip) == {name for name in everything if name.startswith("visual.")}
    train_parts(tiny_clip, "transformers")
    assert trained(tiny_clip) == {name for name in everything if "transformer." in name}
    train_parts(tiny_clip, "visual_attention")
    block = "visual.transformer.resblocks.0.attn."
    own = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    assert {n.removeprefix(block) for n in trained(tiny_clip) if n.startswith(block)} == own
    assert "visual.positional_embedding" in trained(tiny_clip) and len(trained(tiny_clip)) == 4 * 4 + 1


def test_a_choice_that_names_nothing_is_an_error():
    with pytest.raises(ValueError, match="query_value"):
        train_parts(torch.nn.ModuleDict({"visual": torch.nn.Conv2d(3, 3, 3)}), "query_value")

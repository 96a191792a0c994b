"""SegCLIP's own parts against slow or published forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import nn

from twostage.batch import output_sizes
from twostage.config import load_config
from twostage.data.toybox.scenes import render_scene
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.words import Thing
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.systems.building import build_model
from twostage.systems.one_stage.segclip.encoder import ImageEncoding
from twostage.systems.one_stage.segclip.grouped import at_least_a_patch
from twostage.systems.one_stage.segclip.losses import patch_superpixels, superpixel_loss
from twostage.systems.one_stage.segclip.reconstruction import choose_visible, patch_pixels, sine_positions
from twostage.systems.one_stage.segclip.semantic_layer import CrossAttentionBlock, Grouping, SemanticLayer, assign
from twostage.systems.one_stage.segclip.weights import checkpoint_table
from twostage.systems.one_stage.segclip.windows import Windows, region_prediction, window_grid
from twostage.systems.one_stage.segclip.zero_shot import add_background, group_affinities, group_owners
from twostage.vocabulary import Vocabulary

RANDOM = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(load_config("configs/toybox/segclip.yaml", RANDOM))


def pairs(count=3):
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8),
            "caption": f"a photo of a striped blue star number {i}",
            "superpixels": torch.randint(0, 4, (16, 16)).repeat_interleave(8, 0).repeat_interleave(8, 1),
        }
        for i in range(count)
    ]


def test_groups_can_start_from_their_patches():
    torch.manual_seed(0)
    layer = SemanticLayer(width=32, heads=2, num_centres=4, activation=QuickGELU)
    layer.start_from_content()
    x = torch.randn(2, 32, 9)
    torch.testing.assert_close(layer.value(x), 4 * x)
    # Up to a constant, which norms take out, and the random weights of the units that are left over.
    torch.testing.assert_close(layer.output(x.mT), 4 * x.mT + 16, rtol=0, atol=0.25)


@pytest.mark.parametrize("start, least, most", [("random", 0.99, 1.0), ("content", 0.5, 0.95)])
def test_groups_are_alike_unless_they_start_from_their_patches(start, least, most):
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.SEGCLIP.START", start]
    model = build_model(load_config("configs/toybox/segclip.yaml", opts)).eval()
    bank, rng = TextureBank(0, tiles_per_stuff=1), np.random.default_rng(0)
    scene = render_scene(rng, bank, ("grass", "sand"), (Thing("plain", "red", "star"),), 128, 128)
    images = model.preprocess([{"image": torch.from_numpy(scene.image.copy()).permute(2, 0, 1)}])
    with torch.no_grad():
        groups = F.normalize(model.encode(images).windows[0].encoding.groups[0], dim=-1)
    alike = (groups @ groups.T).masked_fill(torch.eye(len(groups), dtype=torch.bool), 0).sum() / (
        len(groups) ** 2 - len(groups)
    )
    assert least < alike < most


def test_cross_attention_is_torchs(tiny_clip):
    torch.manual_seed(0)
    block = CrossAttentionBlock(width=16, heads=2, activation=nn.GELU)
    x, memory = torch.randn(3, 4, 16), torch.randn(3, 9, 16)
    keys = block.ln_k(memory)
    wanted = x + block.attn(block.ln_x(x), keys, keys)[0]
    wanted = wanted + block.mlp(block.ln_2(wanted))
    torch.testing.assert_close(block(x, memory), wanted, rtol=1e-4, atol=1e-5)


def test_mixed_batch_is_the_published_reinterpretation():
    """Keys [B, S, W] read as [S, B, W]: image b sees the tokens whose index in the batch is b modulo B."""
    torch.manual_seed(0)
    block = CrossAttentionBlock(width=16, heads=2, activation=nn.GELU)
    x, memory = torch.randn(3, 4, 16), torch.randn(3, 9, 16)
    flat = memory.flatten(0, 1)
    wanted = [block(x[[b]], flat[b::3][None]) for b in range(3)]
    torch.testing.assert_close(block(x, memory, mix_batch=True), torch.cat(wanted), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(x[:1], memory[:1], mix_batch=True), block(x[:1], memory[:1]))


def test_assignment_is_one_hot_with_the_gradient_of_a_softmax():
    logits = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    hard = assign(logits, noisy=False)
    assert torch.equal(hard.round(), F.one_hot(logits.argmax(1), 5).mT.double())
    weight = torch.randn_like(logits)
    (got,) = torch.autograd.grad((hard * weight).sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad((logits.softmax(1) * weight).sum(), logits)
    torch.testing.assert_close(got, wanted)


def test_noise_only_in_training():
    torch.manual_seed(0)
    layer = SemanticLayer(width=16, heads=2, num_centres=4, activation=QuickGELU)
    x = torch.randn(2, 30, 16)
    layer.eval()
    assert torch.equal(layer(x).hard, layer(x).hard)
    layer.train()
    first, second = layer(x), layer(x)
    assert not torch.equal(first.hard, second.hard)
    torch.testing.assert_close(first.soft, second.soft)


def test_group_tokens_are_means_over_their_patches():
    torch.manual_seed(0)
    layer = SemanticLayer(width=16, heads=2, num_centres=4, activation=QuickGELU).eval()
    x = torch.randn(1, 30, 16)
    grouping = layer(x)
    values = F.conv1d(layer.norm(x).mT, layer.value.weight, groups=2).mT[0]
    owner = grouping.hard[0].argmax(0)
    queries = layer._queries(x)[0]
    for centre in range(4):
        members = values[owner == centre]
        mean = members.mean(0) if len(members) else torch.zeros(16)
        wanted = layer.output(layer.output_norm(queries[centre] + mean))
        torch.testing.assert_close(grouping.tokens[0, centre], wanted, rtol=1e-4, atol=1e-5)


def test_visible_patches():
    torch.manual_seed(0)
    visible = choose_visible(torch.rand(5, 197), 0.75)
    assert visible.tokens.shape == (5, 48) and int(visible.tokens.min()) > 0
    assert visible.hidden.sum(1).tolist() == [148] * 5
    assert not visible.hidden.gather(1, visible.tokens - 1).any()
    # Behind the class token, the first of the shuffled order are the visible ones.
    assert torch.equal(visible.restore.gather(1, visible.tokens), torch.arange(1, 49).expand(5, -1))
    assert visible.restore[:, 0].tolist() == [0] * 5


def test_patch_pixels():
    images = torch.randn(2, 3, 12, 8)
    pixels = patch_pixels(images, 4)
    assert pixels.shape == (2, 6, 48)
    # Patch 3 is the second of the second row; its entries go by row, column, channel.
    assert torch.equal(pixels[1, 3].view(4, 4, 3), images[1, :, 4:8, 4:8].permute(1, 2, 0))


def test_sine_positions():
    positions = sine_positions((2, 3), 16)
    assert positions.shape == (6, 16)
    x, y = 2, 1
    frequency = 10000 ** (-1 / 4)
    assert float(positions[5, 1]) == pytest.approx(math.sin(x * frequency))
    assert float(positions[5, 4]) == pytest.approx(math.cos(x))
    assert float(positions[5, 8 + 1]) == pytest.approx(math.sin(y * frequency))


def test_superpixel_loss_by_hand():
    torch.manual_seed(0)
    hard = F.one_hot(torch.randint(0, 3, (2, 6)), 3).mT.double()
    ids = torch.tensor([[0, 0, 1, 1, 1, 2], [5, 5, 5, 5, 5, 5]])
    total = 0.0
    for b in range(2):
        for i in range(6):
            mean = hard[b][:, ids[b] == ids[b, i]].mean(1).softmax(0)
            own = hard[b, :, i].softmax(0)
            total += float((mean * (mean / own).log()).sum() + (own * (own / mean).log()).sum())
    assert float(superpixel_loss(hard, ids)) == pytest.approx(total / 2 / hard.numel())


def test_superpixels_of_patches_are_means_cut_off():
    ids = torch.zeros(1, 4, 4, dtype=torch.int64)
    ids[0, :2, :2] = 7
    ids[0, 0, 2:] = 7  # half of the second patch: 3.5
    assert patch_superpixels(ids, 2).tolist() == [[7, 3, 0, 0]]


def encoding(windows, centres=4, grid=(5, 5), size=6):
    torch.manual_seed(2)
    soft = (3 * torch.randn(windows, centres, grid[0] * grid[1])).softmax(1)
    groups = Grouping(torch.zeros(()), torch.zeros(()), soft)
    return ImageEncoding(torch.randn(windows, size), torch.randn(windows, centres, size), groups, grid)


def test_affinities_follow_the_formula():
    code = encoding(2)
    text = F.normalize(torch.randn(9, 6), dim=-1)
    got = group_affinities(code, text, torch.tensor(20.0))
    for n in range(2):
        logits = 20 * F.normalize(code.groups[n], dim=-1) @ text.T
        best = (F.normalize(code.image[n], dim=-1) @ text.T).topk(5).indices
        for k in range(4):
            among = torch.zeros(9)
            among[best] = logits[k, best].softmax(0)
            torch.testing.assert_close(got[n, k], among * logits[k].softmax(0))
    assert group_affinities(code, text[:3], torch.tensor(20.0)).shape == (2, 4, 3)


def test_background_is_what_fits_nothing_but_never_everything():
    affinities = torch.tensor([[[0.6, 0.1], [0.2, 0.3]], [[0.02, 0.01], [0.01, 0.03]]])
    background = add_background(affinities, 0.5)[..., 0]
    assert background.tolist() == [[0, 1], [1, 0]]


def test_regions_equal_score_maps_put_together_window_by_window():
    code = encoding(6)
    grid = window_grid((30, 37), (20, 13))
    assert len(grid) == 6
    windows = Windows(grid, code, group_owners(code, grid.tile))
    scores = torch.rand(6, 4, 11)
    total, count = torch.zeros(11, 30, 37), torch.zeros(30, 37)
    corners = [(y, x) for y in grid.tops for x in grid.lefts]
    for n, (y, x) in enumerate(corners):
        maps = F.interpolate(
            code.grouping.soft[n].view(1, 4, 5, 5), size=(20, 20), mode="bilinear", align_corners=False
        )
        total[:, y : y + 20, x : x + 20] += scores[n][maps[0].argmax(0)].permute(2, 0, 1)
        count[y : y + 20, x : x + 20] += 1
    wanted = F.interpolate((total / count)[None], size=(60, 50), mode="bilinear", align_corners=False)[0]
    prediction = region_prediction([windows], [scores], Geometry(padded=(32, 40), images=[(30, 37)]))
    torch.testing.assert_close(prediction.scores([(60, 50)])[0], wanted, rtol=1e-4, atol=1e-5)
    assert (prediction.label_maps([(60, 50)])[0] == wanted.argmax(0)).float().mean() > 0.999


def test_images_of_a_batch_do_not_touch_each_other(model):
    model.eval()
    batch = [
        {"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8), "vocabulary": ["background", "star", "sand"]}
        for size in ((128, 160), (140, 128))
    ]
    with torch.no_grad():
        together = model.predict(batch).scores(output_sizes(batch))
        for entry, scores in zip(batch, together, strict=True):
            (alone,) = model.predict([entry]).scores(output_sizes([entry]))
            torch.testing.assert_close(scores, alone, rtol=1e-3, atol=1e-5)
            assert scores.shape == (3, *entry["image"].shape[1:])


def test_a_step_learns_from_all_three_losses(model):
    model.train()
    losses = model(pairs())
    assert sorted(losses) == ["loss_contrastive", "loss_reconstruction", "loss_superpixel"]
    torch.stack(list(losses.values())).sum().backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        "clip.token_embedding.weight",
        "clip.positional_embedding",
        "clip.visual.class_embedding",
        "clip.visual.positional_embedding",
        "clip.visual.conv1.weight",
        "clip.visual.ln_pre.weight",
        "clip.visual.ln_pre.bias",
    }


def test_the_logit_scale_stays_in_range(model):
    with torch.no_grad():
        model.clip.logit_scale.fill_(9.0)
    model.train()(pairs(2))
    assert model.clip.logit_scale.item() == pytest.approx(math.log(100))


def test_bad_input_is_named(model):
    with pytest.raises(UserError, match="captions"):
        model.train()([{"image": torch.zeros(3, 128, 128)}])
    with pytest.raises(UserError, match="background"):
        model.embed_vocabulary(Vocabulary(("background",)))
    with pytest.raises(UserError, match=r"GROUP_BLOCKS is 5.*1 to 4"):
        build_model(load_config("configs/toybox/segclip.yaml", [*RANDOM, "MODEL.SEGCLIP.GROUP_BLOCKS", "5"]))
    with pytest.raises(UserError, match="DECODER_WIDTH"):
        load_config("configs/toybox/segclip.yaml", ["MODEL.SEGCLIP.DECODER_WIDTH", "66"])


def test_learning_rates_and_decay(model):
    cfg = load_config("configs/segclip_vitb.yaml")
    settings = parameter_settings(cfg, model)
    last = "clip.visual.transformer.resblocks.4.ln_1."
    assert settings[f"{last}weight"] == (4e-3, 0.05) and settings[f"{last}bias"] == (4e-3, 0.0)
    first = settings["clip.visual.transformer.resblocks.2.attn.in_proj_bias"]
    assert first.lr == pytest.approx(4e-6) and first.weight_decay == 0
    assert settings["clip.visual.proj"].lr == settings["semantic_layer.centres"].lr == 4e-3
    assert settings["clip.text_projection"].lr == pytest.approx(4e-6)


def test_every_official_tensor_is_accounted_for(reference):
    keys = json.loads((reference / "segclip" / "keys-vitb16.json").read_text())
    tensors = {name: torch.zeros(()) for name in keys}
    table = checkpoint_table(10)
    assert table.recognises(tensors)
    ours = table.to_ours(tensors, source="keys")
    assert "clip.visual.transformer.resblocks.11.ln_1.weight" in ours
    assert sorted(table.to_official(ours)) == sorted(set(keys) - {"vis_mae_decoder.decoder_pos_embed"})


@pytest.mark.parametrize("size", [(1, 128), (128, 2), (1, 1)])
def test_pictures_thinner_than_a_patch(size: tuple[int, int]) -> None:
    tiles = torch.rand(2, 3, *size)
    padded = at_least_a_patch(tiles, (8, 8))
    assert padded.shape[-2:] == tuple(max(8, side) for side in size)
    assert torch.equal(padded[..., : size[0], : size[1]], tiles) and padded.count_nonzero() == tiles.count_nonzero()
    whole = torch.rand(1, 3, 16, 24)
    assert torch.equal(at_least_a_patch(whole, (8, 8)), whole)

"""SCAN's own parts against their published forms, and the toy system."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import nn

from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.two_stage.ensemble import weigh_against_void
from twostage.systems.two_stage.scan.calibration import Calibration, FrequencyFilter
from twostage.systems.two_stage.scan.contextual_shift import replacement_noise, shift_background
from twostage.systems.two_stage.scan.weights import checkpoint_table

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    return build_model(load_config(str(CONFIGS / "toybox" / "scan.yaml"), opts))


def batch():
    torch.manual_seed(1)
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    instances.gt_masks[0, :32] = instances.gt_masks[1, 40:, :50] = True
    image = torch.randint(0, 255, (3, 64, 96))
    return [{"image": image, "instances": instances, "vocabulary": ["grass", "sky", "blue star"]}]


def calibration(**changes) -> Calibration:
    torch.manual_seed(0)
    settings = {"clip_width": 6, "width": 8, "heads": 2, "sigmas": (2.0, 1.0), "fusion_layers": 2, "refine_layers": 2}
    return Calibration(**(settings | {"refine_hidden": 16, "dropout": 0.1} | changes)).eval()


def test_frequency_filter_equals_numpy():
    torch.manual_seed(0)
    layer = FrequencyFilter(2)
    nn.init.dirac_(layer.conv1.weight)
    nn.init.zeros_(layer.conv1.bias)
    x = torch.randn(1, 2, 6, 6)
    spectrum = np.fft.fft2(x.numpy())
    rows, columns = np.mgrid[:6, :6] - 3
    spectrum = spectrum * (1 - np.exp(-(rows**2 + columns**2) / (2 * 1.5**2)))
    stacked = np.concatenate([spectrum.real, spectrum.imag], axis=1).clip(min=0)
    weight, bias = layer.conv2.weight.detach().numpy()[:, :, 0, 0], layer.conv2.bias.detach().numpy()
    mixed = np.einsum("oc,bchw->bohw", weight, stacked) + bias[:, None, None]
    wanted = x.numpy() + np.fft.ifft2(mixed[:, :2] + 1j * mixed[:, 2:]).real
    np.testing.assert_allclose(layer(x, 1.5).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_queries_stay_on_their_own():
    """So that the queries of all layers can be calibrated together."""
    model = calibration()
    context = model.context([torch.randn(2, 6, 3, 3), torch.randn(2, 6, 3, 3)], torch.randn(2, 8))
    assert context.memory.shape == (2, 18, 8)
    torch.testing.assert_close(context.class_embedding.norm(dim=-1), torch.ones(2))
    queries = torch.randn(2, 5, 8)
    together = model(queries, context)
    torch.testing.assert_close(model(queries[:, [3]], context), together[:, [3]])
    # The picture's class embedding reaches them.
    other = context._replace(class_embedding=-context.class_embedding)
    assert (model(queries, other) - together).abs().max() > 1e-3


def test_no_norm_behind_the_last_fusion_layer():
    model = calibration()
    assert len(model.fusion.norms) == 1 and len(model.fusion.attentions) == 2
    assert model.class_weight.item() == pytest.approx(0.1)


def test_some_background_becomes_the_pictures_class_token():
    torch.manual_seed(0)
    visible = torch.rand(3, 40) < 0.5
    visible[2] = True
    token = torch.randn(4)
    replace = shift_background(visible, {2: token}, ratio=0.3)
    tokens = torch.randn(3, 40, 4)
    assert replace(1, tokens) is tokens
    out = replace(2, tokens)
    assert torch.equal(out[visible], tokens[visible]) and torch.equal(out[2], tokens[2])
    for region in range(2):
        background, before = out[region, ~visible[region]], tokens[region, ~visible[region]]
        shifted = (background == token).all(dim=-1)
        assert shifted.sum() == int(0.3 * len(background))
        assert torch.equal(background[~shifted], before[~shifted])


def test_the_draw_is_the_same_for_the_same_regions():
    background = torch.ones(4, 30, dtype=torch.bool)
    whole = replacement_noise(3, background, 0)
    assert torch.equal(whole[2:], replacement_noise(3, background[2:], 2))
    assert not torch.equal(whole, replacement_noise(5, background, 0)) and not torch.equal(whole[0], whole[1])


def test_weighing_void_equals_the_published_logarithms():
    torch.manual_seed(0)
    weights, void = torch.rand(2, 5, 4), torch.rand(2, 5, 1)
    inner = weights.log().softmax(dim=-1) * (1 - void)
    wanted = (torch.cat([inner, void], dim=-1) + 1e-8).log().softmax(dim=-1)[..., :-1]
    torch.testing.assert_close(weigh_against_void(weights, void), wanted)


def test_training_step(toy):
    toy.train()
    losses = toy(batch())
    # Final, before any layer, after the first and the second; after the third there is no loss.
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0", "_1", "_2")}
    torch.stack(list(losses.values())).sum().backward()
    used = {n for n, p in toy.named_parameters() if p.grad is not None}
    assert {n for n, p in toy.named_parameters() if p.requires_grad} == used
    assert not any(n.startswith(("clip.", "context_clip.")) for n in used)
    toy.zero_grad()


def test_inference_is_the_same_every_time_and_in_any_chunks(toy):
    toy.eval()
    with torch.no_grad():
        first, again = (toy.predict(batch()).scores([(64, 96)])[0] for _ in range(2))
        object.__setattr__(toy.regions, "batch_size", 3)
        chunked = toy.predict(batch()).scores([(64, 96)])[0]
    assert first.shape == (3, 64, 96) and torch.equal(first, again)
    torch.testing.assert_close(chunked, first, rtol=1e-4, atol=1e-5)


def test_only_empty_masks_leave_it_to_the_generator(toy):
    toy.eval()
    with torch.no_grad():
        encoded = toy.encode(toy.preprocess(batch()))
        nothing = encoded.regions._replace(valid=torch.zeros_like(encoded.regions.valid))
        text = F.normalize(torch.randn(3, encoded.regions.embeddings.shape[-1]), dim=-1)
        prediction = toy.decode(encoded._replace(regions=nothing), text)
    wanted = prediction.class_logits.softmax(dim=-1)[..., :-1]
    torch.testing.assert_close(prediction.class_weights, wanted)


def test_size_of_crops():
    """Of another side than CLIP's pictures, if it is whole patches."""

    def build(*options):
        torch.manual_seed(0)
        return build_model(
            load_config(
                str(CONFIGS / "toybox" / "scan.yaml"), ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", *options)
            )
        )

    model = build("MODEL.SCAN.CROP_SIZE", "48").eval()
    seen = []
    hook = model.clip.visual.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-2:]))
    with torch.no_grad():
        model.encode(model.preprocess(batch()))
    hook.remove()
    assert set(seen) == {(48, 48)}
    with pytest.raises(UserError, match=r"MODEL.SCAN.CROP_SIZE is 50.*8 pixels"):
        build("MODEL.SCAN.CROP_SIZE", "50")


def test_blocks_that_clip_lacks():
    cfg = load_config(
        str(CONFIGS / "toybox" / "scan.yaml"), ("MODEL.DEVICE", "cpu", "MODEL.SCAN.SHIFT_BLOCKS", "[1, 9]")
    )
    with pytest.raises(UserError, match="SHIFT_BLOCKS has 9"):
        build_model(cfg)


@pytest.mark.parametrize("variant", ["vitb", "vitl"])
def test_every_official_tensor_is_accounted_for(reference, variant):
    published = json.loads((reference / "scan" / f"keys-{variant}.json").read_text())
    tensors = {name: torch.zeros(()) for name in published}
    table = checkpoint_table()
    assert table.recognises(tensors)
    ours = table.to_ours(tensors, source="keys")
    dropped = {"criterion.empty_weight", "clip_adapter.pixel_mean", "clip_adapter.pixel_std"}
    assert set(table.to_official(ours)) == set(published) - dropped
    assert sum(name.startswith("context_clip.") for name in ours) == sum(n.startswith("clip.visual.") for n in ours)


@pytest.mark.slow
def test_vitl_model_has_every_official_tensor(reference):
    published = json.loads((reference / "scan" / "keys-vitl.json").read_text())
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "")
    model = build_model(load_config(str(CONFIGS / "scan_vitl.yaml"), opts))
    shapes = {n: list(v.shape) for n, v in model.checkpoint_table().to_official(model.state_dict()).items()}
    dropped = {"criterion.empty_weight", "clip_adapter.pixel_mean", "clip_adapter.pixel_std"}
    assert shapes == {n: entry["shape"] for n, entry in published.items() if n not in dropped}

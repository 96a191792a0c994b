"""Guidance from a frozen ViT of timm: its features, its weights, and its place in CAT-Seg and SED."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from twostage.clip.statistics import CLIP_STATISTICS, Pictures, PixelUnits
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.one_stage.cost_aggregation.variants.frozen_vit import build_frozen_vit

ROOT = Path(__file__).parents[3]
# A ViT of 64 channels, 6 blocks and patches of 16.
NAME = "test_vit"


def config(system, *opts):
    plain = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.TEMPLATES", "single"]
    guide = ["MODEL.DEVICE", "cpu", "MODEL.VIT_GUIDE.NAME", NAME, "MODEL.VIT_GUIDE.TAPS", "[2, 4]"]
    guide += ["TEST.SEMANTIC_OUTPUT", "scores"]
    return load_config(str(ROOT / "configs" / "toybox" / f"{system}.yaml"), [*plain, *guide, *opts])


def model(system, *opts):
    torch.manual_seed(0)
    return build_model(config(system, *opts))


def batch(names=("grass", "blue star", "brick wall")):
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
            "sem_seg": torch.randint(0, len(names), (64, 64)),
            "vocabulary": list(names),
        }
    ]


def test_maps_are_normed_patch_tokens_of_pixels_in_its_own_scale():
    torch.manual_seed(0)
    cfg = config("catseg")
    guide = build_frozen_vit(cfg, cells=4)
    pixels = torch.rand(1, 3, 50, 64) * 255
    images = Pictures(list(pixels), PixelUnits(CLIP_STATISTICS), 32)
    maps = guide(images, lambda given, side: given.tensor[:, :, :side, :side])
    vit = guide.vit
    # timm's statistics for this ViT are 0.5 for mean and deviation; padding is 0 behind them.
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(F.pad(pixels / 127.5 - 1, (0, 0, 0, 14)))))
    outputs = []
    for block in vit.blocks:
        x = block(x)
        outputs.append(vit.norm(x)[:, vit.num_prefix_tokens :].transpose(1, 2).unflatten(2, (4, 4)))
    for ours, wanted in zip(maps, (outputs[1], outputs[3], outputs[5]), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
        assert not ours.requires_grad


@pytest.mark.parametrize("system", ["catseg", "sed"])
def test_it_guides_stays_frozen_and_is_part_of_checkpoints(system):
    built = model(system).train()
    vit = (built.guide.backbone if system == "catseg" else built.guide).vit
    assert not any(module.training for module in vit.modules())
    assert any(".vit.blocks.5." in name for name in built.state_dict())
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    torch.stack(list(built(batch()).values())).sum().backward()
    assert all(p.grad is None for p in vit.parameters())
    without = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
    assert not [n for n in without if not n.startswith("clip.")], without
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())
    built.eval()
    with torch.no_grad():
        first = built(batch())[0]["sem_seg"]
        vit.blocks[0].mlp.fc1.weight.mul_(3)
        second = built(batch())[0]["sem_seg"]
    assert not torch.allclose(first, second)


def test_class_order_does_not_matter():
    built = model("catseg", "MODEL.COST_AGGREGATION.IMAGE_CORRELATION", "append").eval()
    names = ["grass", "blue star", "brick wall", "sea"]
    with torch.no_grad():
        first, second = built(batch(names))[0]["sem_seg"], built(batch(names[::-1]))[0]["sem_seg"]
    torch.testing.assert_close(first, second.flip(0), rtol=1e-4, atol=1e-5)


def test_sed_projects_on_the_first_grid_and_resizes():
    built = model("sed").eval()
    images = built.preprocess(batch())
    maps = built.guide(images, built._squares)
    cells = built.resolution // 16
    assert [tuple(m.shape) for m in maps] == [(1, 64, cells, cells)] * 3
    guidance = built.encode(images).features.guidance
    projections = built.decoder.visual_guidance.projections
    for stage, source in enumerate((maps[2], maps[1], maps[0])):
        wanted = F.relu(projections[stage](source))
        wanted = F.interpolate(wanted, size=(cells * 2**stage,) * 2, mode="bilinear", align_corners=False)
        torch.testing.assert_close(guidance[stage], wanted)


@pytest.mark.parametrize("system", ["catseg", "sed"])
def test_its_similarity_can_lead_the_image_correlation(system):
    keys = "MODEL.COST_AGGREGATION."
    own = model(system, f"{keys}IMAGE_CORRELATION", "replace").eval()
    led = model(system, f"{keys}IMAGE_CORRELATION", "replace", f"{keys}CORRELATION_FEATURES", "guide").eval()
    led.load_state_dict(own.state_dict())
    with torch.no_grad():
        images = own.preprocess(batch())
        ours, theirs = own.encode(images), led.encode(images)
    first, second = (e.embeddings if system == "catseg" else e.features.embeddings for e in (ours, theirs))
    assert first.shape == second.shape and not torch.allclose(first, second)


def test_local_weights_are_read_by_name(tmp_path):
    torch.manual_seed(3)
    source = timm.create_model(NAME, pretrained=False)
    save_file(source.state_dict(), str(tmp_path / "vit.safetensors"))
    guide = build_frozen_vit(config("catseg", "MODEL.VIT_GUIDE.PRETRAINED", str(tmp_path / "vit.safetensors")), cells=4)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in guide.vit.state_dict().items())
    other = timm.create_model("test_vit2", pretrained=False)
    save_file(other.state_dict(), str(tmp_path / "other.safetensors"))
    torch.save({"model": source}, tmp_path / "pickled.pth")
    for name, said in (("other.safetensors", "not those of MODEL.VIT_GUIDE.NAME"), ("pickled.pth", "pickled objects")):
        with pytest.raises(UserError, match=said):
            build_frozen_vit(config("catseg", "MODEL.VIT_GUIDE.PRETRAINED", str(tmp_path / name)), cells=4)


def test_a_checkpoint_stands_for_its_own_weights():
    opts = ["MODEL.VIT_GUIDE.PRETRAINED", "missing.safetensors"]
    with pytest.raises(UserError, match=r"neither a file nor a tag of 'test_vit'.*tags: r160_in1k"):
        build_frozen_vit(config("catseg", *opts), cells=4)
    assert build_frozen_vit(config("catseg", *opts, "MODEL.WEIGHTS", "model_final.pth"), cells=4) is not None


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (["MODEL.VIT_GUIDE.NAME", "vit_smal_patch14_dinov2"], "vit_small_patch14_dinov2"),
        (["MODEL.VIT_GUIDE.NAME", "resnet18"], "no plain ViT"),
        (["MODEL.VIT_GUIDE.TAPS", "[2, 7]"], "1 to 6"),
        (["MODEL.VIT_GUIDE.TAPS", "[2]"], "two blocks"),
        (["MODEL.CATSEG.BACKBONE.ENABLED", "True"], "contradict"),
        (["MODEL.VIT_GUIDE.NAME", "", "MODEL.VIT_GUIDE.PRETRAINED", "lvd142m"], "needs MODEL.VIT_GUIDE.NAME"),
        (
            ["MODEL.VIT_GUIDE.NAME", "", "MODEL.COST_AGGREGATION.CORRELATION_FEATURES", "guide"],
            "needs MODEL.VIT_GUIDE.NAME",
        ),
    ],
)
def test_wrong_values_are_named(opts, said):
    with pytest.raises(UserError, match=said):
        build_frozen_vit(config("catseg", *opts), cells=4)

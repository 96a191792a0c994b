"""ODISE: the walk to the last tap, crops, captioner, masked CLIP, losses, weights in all layouts, reference cases."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance.case import Case
from conformance.comparison import format_comparisons
from conformance.running import run
from detectron2.structures import Instances

from twostage.clip.regions.shadow_tokens import read_masks
from twostage.clip.towers.vit import embed_image, merge_heads, project_qkv, project_tokens, run_blocks
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.two_stage.odise.captioner import ImplicitCaptioner
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion, Prompt, noise_factors
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.features import CropGrid, crop_grid
from twostage.systems.two_stage.odise.grounding import caption_similarity, grounding_loss

CONFIGS = Path(__file__).parents[2] / "configs"
_VAE, _UNET = (32, 32, 32, 32), (32, 32, 64, 64)


def toy(*opts: str):
    torch.manual_seed(0)
    fixed = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")
    small = ("MODEL.ODISE.DIFFUSION.PRETRAINED", "", "MODEL.ODISE.DIFFUSION.VAE_CHANNELS", str(_VAE))
    small += ("MODEL.ODISE.DIFFUSION.UNET_CHANNELS", str(_UNET))
    model = build_model(load_config(str(CONFIGS / "toybox" / "odise.yaml"), (*fixed, *small, *opts)))
    with torch.no_grad():
        # Shut gates would hide the captioner.
        model.features.captioner.prompt_gate += 0.5
        model.features.captioner.time_gate += 0.5
    return model


def batch(**extra):
    torch.manual_seed(1)
    instances = Instances((64, 100))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, 64, 100, dtype=torch.bool)
    instances.gt_masks[0, :32] = instances.gt_masks[1, 40:, :50] = True
    image = torch.randint(0, 255, (3, 64, 100))
    return [{"image": image, "instances": instances, "vocabulary": ["grass, lawn", "sky", "blue star"], **extra}]


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return build_autoencoder(_VAE).eval(), build_unet(_UNET, heads=4, prompt_width=24).eval()


@pytest.fixture(scope="module")
def diffusion(networks):
    vae, unet = copy.deepcopy(networks)
    return LatentDiffusion(vae=vae, unet=unet, recompute=False)


def prompt(images: int) -> Prompt:
    torch.manual_seed(2)
    return Prompt(torch.randn(images, 5, 24), torch.randn(images, 128))


def test_walk_to_the_last_tap_sees_what_hooks_on_the_whole_graph_see(networks, diffusion):
    vae, unet = networks
    images, given = torch.rand(2, 3, 64, 64), prompt(2)
    seen = {}
    blocks = [vae.encoder.down_blocks[2].resnets[1], vae.encoder.down_blocks[3].resnets[1]]
    blocks += [block.resnets[2] for block in unet.up_blocks]
    blocks += [vae.decoder.up_blocks[0].resnets[2], vae.decoder.up_blocks[1].resnets[2]]
    hooks = [
        block.register_forward_pre_hook(lambda _m, inputs, index=index: seen.__setitem__(index, inputs[0]))
        for index, block in enumerate(blocks)
    ]
    hooks.append(unet.time_embedding.register_forward_hook(lambda _m, _i, out: out + given.time))
    with torch.no_grad():
        latents = vae.encode(2 * images - 1).latent_dist.mode() * 0.18215
        unet(diffusion.add_noise(latents), 0, encoder_hidden_states=given.context)
        vae.decode(latents / 0.18215)
        taps = diffusion(images, given)
    for hook in hooks:
        hook.remove()
    assert [tap.shape[1] for tap in taps] == list(diffusion.channels)
    for index, tap in enumerate(taps):
        torch.testing.assert_close(tap, seen[index], rtol=1e-4, atol=1e-5)
    whole = sum(p.numel() for network in networks for p in network.parameters())
    assert sum(p.numel() for p in diffusion.parameters()) < whole


def test_recomputed_activations_give_the_same_gradients(diffusion):
    images = torch.rand(1, 3, 64, 64)
    found = []
    for recompute in (False, True):
        diffusion.recompute = recompute
        given = Prompt(*(part.requires_grad_() for part in prompt(1)))
        torch.stack([tap.square().mean() for tap in diffusion(images, given)]).sum().backward()
        found.append((given.context.grad, given.time.grad))
    diffusion.recompute = False
    for plain, again in zip(*found, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(plain, again)
    assert all(p.grad is None for p in diffusion.parameters())


def test_noise_is_that_of_the_first_step(diffusion):
    keep, add = noise_factors()
    assert keep == pytest.approx(0.9995749, abs=1e-7) and add == pytest.approx(0.0291548, abs=1e-7)
    latents = torch.randn(2, 4, 64, 64)
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(42))
    torch.testing.assert_close(diffusion.add_noise(latents), keep * latents + add * noise)


def test_crops_cover_a_picture_and_are_shifted_inwards():
    assert crop_grid(1024, 1536, 512).corners == [(y, x) for y in (0, 512) for x in (0, 512, 1024)]
    assert crop_grid(128, 192, 512) == CropGrid(128, [(0, 0), (0, 64)])
    assert crop_grid(576, 512, 512).corners == [(0, 0), (64, 0)]


@torch.no_grad()
def test_features_do_not_depend_on_how_many_crops_go_together():
    # In double precision, because norms over single cells, as in so small a UNet, blow rounding up.
    model = toy("MODEL.ODISE.CROP_SIZE", "64").eval().double()
    images = torch.rand(2, 3, 64, 128, dtype=torch.float64)
    found = []
    for together in (1, 3):
        model.features.crop_batch = together
        found.append(model.features(images, model.clip.visual))
    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert found[0][name].shape == (2, 128, 64 // stride, 128 // stride)
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-5, atol=1e-6)
    # Crops that do not overlap are what they are alone.
    alone = model.features(images[..., 64:], model.clip.visual)
    torch.testing.assert_close(found[0]["res3"][..., 8:], alone["res3"], rtol=1e-5, atol=1e-6)


def test_a_fresh_captioner_says_the_empty_prompt():
    captioner = ImplicitCaptioner(embedding=8, tokens=3, width=5, time_width=7)
    captioner.empty_prompt.copy_(torch.randn(1, 3, 5))
    context, time = captioner(torch.randn(2, 8))
    torch.testing.assert_close(context, captioner.empty_prompt.expand(2, -1, -1))
    assert not time.any()
    with torch.no_grad():
        captioner.prompt_gate += 1
        captioner.time_gate += 1
    x = torch.randn(2, 8)
    context, time = captioner(x)
    linear, positions = captioner.to_prompt.linear, captioner.to_prompt.positional_embedding
    torch.testing.assert_close(context, captioner.empty_prompt + math.tanh(1) * (linear(x)[:, None] + positions))
    torch.testing.assert_close(
        time, math.tanh(1) * (captioner.to_time.linear(x) + captioner.to_time.positional_embedding[0, 0])
    )


@torch.no_grad()
def test_masked_clip_equals_one_sequence_under_a_dense_mask(tiny_clip):
    visual = tiny_clip.visual
    torch.manual_seed(3)
    tokens = embed_image(visual, torch.randn(1, 3, 32, 32))
    inside = torch.rand(1, 6, 16) > 0.6
    inside[0, 0] = False
    got = read_masks(visual, list(visual.transformer.resblocks), tokens, inside)
    # Mask tokens in front; True: blocked. Nobody sees mask tokens, they see the class token and their patches.
    x = torch.cat([tokens.class_token.expand(-1, 6, -1), tokens.x], dim=1)
    blocked = torch.zeros(23, 23, dtype=torch.bool)
    blocked[:, :6] = True
    blocked[:6, 7:] = ~inside[0]
    for block in visual.transformer.resblocks:
        q, k, v = project_qkv(block.attn, block.ln_1(x))
        scores = (q * q.shape[-1] ** -0.5 @ k.mT).masked_fill(blocked, float("-inf"))
        x = x + block.attn.out_proj(merge_heads(scores.softmax(-1) @ v))
        x = x + block.mlp(block.ln_2(x))
    torch.testing.assert_close(got, project_tokens(visual, x[:, :6]), rtol=1e-4, atol=1e-5)
    plain, _ = run_blocks(visual.transformer.resblocks, tokens)
    torch.testing.assert_close(project_tokens(visual, x[:, 6:]), project_tokens(visual, plain.x), rtol=1e-4, atol=1e-5)


def test_grounding_loss_against_loops():
    torch.manual_seed(0)
    masks, words = torch.randn(3, 4, 8), F.normalize(torch.randn(3, 2, 8), dim=-1)
    valid, scale = torch.tensor([True, True, False]), torch.tensor(5.0)
    similarity = torch.zeros(3, 3)
    for i in range(3):
        for j in range(3):
            for k in range(2):
                s = scale * F.normalize(masks[i], dim=-1) @ words[j, k]
                similarity[i, j] += (s.softmax(0) * s).sum() / 2
    torch.testing.assert_close(caption_similarity(F.normalize(masks, dim=-1), words, scale), similarity)
    text = sum(-similarity[:, j].log_softmax(0)[j] for j in range(2)) / 3
    image = sum(-similarity[i].log_softmax(0)[i] for i in range(2)) / 2
    torch.testing.assert_close(grounding_loss(masks, words, valid, scale), (text + image) / 2)
    nobody = grounding_loss(masks, words, torch.zeros(3, dtype=torch.bool), scale)
    torch.testing.assert_close(nobody, sum(-similarity[i].log_softmax(0)[i] for i in range(3)) / 6)


def test_grounding_compares_the_pictures_of_all_processes(tmp_path):
    def run(world: int) -> list[dict]:
        address = f"file://{tmp_path / str(world)}"
        command = [sys.executable, str(Path(__file__).with_name("grounding_worker.py"))]
        running = [
            subprocess.Popen([*command, str(rank), str(world), address], stdout=subprocess.PIPE, text=True)
            for rank in range(world)
        ]
        return [json.loads(process.communicate(timeout=120)[0]) for process in running]

    (alone,), (first, second) = run(1), run(2)
    assert first["loss"] == pytest.approx(alone["loss"]) and second["loss"] == pytest.approx(alone["loss"])
    # Distributed training takes the mean over processes of gradients that each is the sum over both losses.
    both = torch.tensor([*first["gradient"], *second["gradient"]]) / 2
    torch.testing.assert_close(both, torch.tensor(alone["gradient"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("supervision", ["label", "caption"])
def test_a_step_trains_the_published_parts_only(supervision):
    model = toy("MODEL.ODISE.SUPERVISION", supervision).train()
    words = ["star", "grass"] * 4
    losses = model([*batch(words=words), *batch(words=[""] * 8)])
    assert len([name for name in losses if "word" in name]) == (4 if supervision == "caption" else 0)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        is_frozen = name.startswith(("clip.", "features.diffusion."))
        assert (parameter.grad is None) == is_frozen, name
    assert not model.clip.training and not model.features.diffusion.vae.training


def test_only_plain_biases_and_norms_are_spared_from_decay():
    cfg = load_config(str(CONFIGS / "odise_label.yaml"), ("MODEL.DEVICE", "cpu"))
    settings = parameter_settings(cfg, toy())
    spared = {name for name, setting in settings.items() if setting.weight_decay == 0}
    assert "features.captioner.to_prompt.linear.bias" in spared and "decoder.norm.weight" in spared
    for name in ("features.captioner.prompt_gate", "text_head.null_embed", "mask_embedding.logit_scale"):
        assert settings[name].weight_decay == 0.05
    assert settings["decoder.layers.0.self_attention.attn.in_proj_bias"].weight_decay == 0.05


@torch.no_grad()
def test_prediction_is_a_distribution_with_void_of_the_right_source():
    for supervision in ("label", "caption"):
        model = toy("MODEL.ODISE.SUPERVISION", supervision).eval()
        images = model.preprocess(batch())
        assert images.tensor.shape[-2:] == (64, 128)
        from twostage.vocabulary import Vocabulary

        words = model.embed_vocabulary(Vocabulary(("grass, lawn", "sky", "blue star")))
        encoded = model.encode(images)
        prediction = model.decode(encoded, words)
        probabilities = prediction.class_logits.exp()
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 20), rtol=1e-4, atol=1e-4)
        output, embeddings = encoded.outputs[0]
        if supervision == "caption":
            void = model.objectness(output.queries).softmax(-1)[..., 1]
        else:
            rows = model.text_head(words.head)
            void = model.head_logits(embeddings, rows, words.classes).softmax(-1)[..., -1]
        torch.testing.assert_close(probabilities[..., -1], void, rtol=1e-4, atol=1e-6)
        (labels,) = prediction.label_maps([(64, 100)])
        assert labels.shape == (64, 100)


def test_bad_input(monkeypatch):
    with pytest.raises(UserError, match=r"DATASETS\.CAPTIONS"):
        toy("MODEL.ODISE.SUPERVISION", "caption").train()(batch())
    for opts, message in (
        (("MODEL.ODISE.CROP_SIZE", "100"), "multiple of 64"),
        (("MODEL.ODISE.DIFFUSION.UNET_CHANNELS", "(32, 64)"), "4 numbers"),
        (("MODEL.ODISE.DIFFUSION.HEADS", "3"), "must divide"),
        (("MODEL.ODISE.SUPERVISION", "labels"), "did you mean 'label'"),
        (("MODEL.CLIP.NAME", "toybox-convnext"), "plain ViT"),
    ):
        with pytest.raises(UserError, match=message):
            toy(*opts)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install twostage\[diffusion\]"):
        toy()


@torch.no_grad()
def test_a_picture_smaller_than_a_crop_is_enlarged():
    model = toy().eval()
    (result,) = model([{"image": torch.randint(0, 255, (3, 20, 30)), "vocabulary": ["grass", "sky"]}])
    assert result["sem_seg_labels"].shape == (20, 30)


@pytest.mark.parametrize("variant", ["label", "caption"])
def test_names_are_those_of_the_official_files(reference, variant):
    def names(file: str) -> set[str]:
        return set(json.loads((reference / "odise" / file).read_text()))

    model = toy("MODEL.ODISE.SUPERVISION", variant)
    official = set(model.checkpoint_table().to_official(model.state_dict()))
    # The toy decoder has three layers instead of nine, and two instead of six.
    wanted = names(f"keys-{variant}.json") - {"criterion.empty_weight"}
    outside = {n for n in wanted - official if not any(f".{i}." in n for i in range(2, 9))}
    assert not outside
    frozen = names("keys-frozen-ldm.json") | names("keys-frozen-clip.json")
    layers = {n for n in official if n.startswith(("model.", "first_stage_model."))}
    assert layers and layers <= frozen
    # Fewer feature channels than the autoencoder has: more blocks need a shortcut.
    trained = {n for n in official if not n.startswith(("model.", "first_stage", "clip.")) and ".shortcut." not in n}
    assert trained <= wanted


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unit-maskclip", "narrow-caption-small"])
def test_reference_cases(reference, case):
    outcome = run(Case.read(reference / "odise" / f"public-{case}.json"))
    assert outcome.passed, "\n" + format_comparisons(outcome.failures)
    assert not outcome.left_out

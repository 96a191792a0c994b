"""Weights of latent diffusion models in every layout, told from other versions, read without running anything."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twostage.api import build_from_config, find_config
from twostage.checkpoint.safe_loading import load_checkpoint_file
from twostage.clip.loading import load_clip
from twostage.config import load_config
from twostage.data.toybox.scenes import render_scene
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.words import Thing
from twostage.errors import UserError
from twostage.systems.two_stage.odise.captioner import ImplicitCaptioner
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.diffusion.stable_diffusion import (
    LDM,
    load_stable_diffusion,
    read_diffusion_weights,
)
from twostage.systems.two_stage.odise.diffusion.text_encoder import empty_prompt
from twostage.systems.two_stage.odise.diffusion.toybox import encode_pictures, prompt_tokens

_WIDTH = 64
_CHANNELS = (32, 32, 32, 32)


def text_encoder() -> dict[str, torch.Tensor]:
    """One layer of 64 channels, on 4 tokens, by the names of the transformers library."""
    torch.manual_seed(5)
    layer = "text_model.encoder.layers.0."
    shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, _WIDTH),
        "text_model.embeddings.position_embedding.weight": (4, _WIDTH),
        "text_model.final_layer_norm.weight": (_WIDTH,),
        "text_model.final_layer_norm.bias": (_WIDTH,),
        f"{layer}mlp.fc1.weight": (256, _WIDTH),
        f"{layer}mlp.fc1.bias": (256,),
        f"{layer}mlp.fc2.weight": (_WIDTH, 256),
        f"{layer}mlp.fc2.bias": (_WIDTH,),
        **{f"{layer}self_attn.{p}_proj.weight": (_WIDTH, _WIDTH) for p in ("q", "k", "v", "out")},
        **{f"{layer}self_attn.{p}_proj.bias": (_WIDTH,) for p in ("q", "k", "v", "out")},
        **{f"{layer}layer_norm{i}.{p}": (_WIDTH,) for i in (1, 2) for p in ("weight", "bias")},
    }
    return {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def whole_networks():
    torch.manual_seed(0)
    return build_autoencoder(_CHANNELS), build_unet(_CHANNELS, heads=4, prompt_width=_WIDTH)


def model_and_captioner():
    torch.manual_seed(1)
    vae, unet = build_autoencoder(_CHANNELS), build_unet(_CHANNELS, heads=4, prompt_width=_WIDTH)
    captioner = ImplicitCaptioner(embedding=8, tokens=4, width=_WIDTH, time_width=128)
    return LatentDiffusion(vae=vae, unet=unet, recompute=False), captioner


def ours() -> dict[str, torch.Tensor]:
    vae, unet = whole_networks()
    tensors = {f"vae.{n}": t for n, t in vae.state_dict().items()}
    tensors |= {f"unet.{n}": t for n, t in unet.state_dict().items()}
    return tensors | {f"text_encoder.{n}": t for n, t in text_encoder().items()}


class ModelCheckpoint:
    """Stands for a callback of Lightning's trainer."""

    def __reduce__(self):
        return ModelCheckpoint, ()


ModelCheckpoint.__module__ = "pytorch_lightning.callbacks.model_checkpoint"


def write_lightning(path, state, callback=ModelCheckpoint):
    """A file as Lightning's trainer writes it, with a callback's class as a key."""
    import sys
    import types

    modules = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for name in modules:
        sys.modules[name] = types.ModuleType(name)
    sys.modules[modules[-1]].ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": state,
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "of": ModelCheckpoint()}},
    }
    try:
        torch.save(content, path)
    finally:
        for name in modules:
            del sys.modules[name]


def ldm_file(path):
    state = LDM.to_official(ours())
    # What such files hold besides.
    state |= {"betas": torch.zeros(3), "sqrt_alphas_cumprod": torch.zeros(3), "model_ema.decay": torch.zeros(())}
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(4)[None]
    write_lightning(path, state)
    return state


def test_original_and_diffusers_layout_give_the_same_model(tmp_path):
    state = ldm_file(tmp_path / "sd-v1-3.ckpt")
    # Attention of the autoencoder is stored as 1x1 convolutions in the original.
    assert state["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (32, 32, 1, 1)
    folder = tmp_path / "diffusers"
    for name in ("vae", "unet", "text_encoder"):
        (folder / name).mkdir(parents=True)
        part = {n.removeprefix(f"{name}."): t for n, t in ours().items() if n.startswith(f"{name}.")}
        # As older files have it.
        part = (
            {n.replace("attentions.0.to_q", "attentions.0.query"): t for n, t in part.items()}
            if name == "vae"
            else part
        )
        save_file(part, folder / name / "model.safetensors")
    found = []
    for source in (tmp_path / "sd-v1-3.ckpt", folder):
        model, captioner = model_and_captioner()
        load_stable_diffusion(model, captioner, str(source))
        found.append({**model.state_dict(), "prompt": captioner.empty_prompt})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    vae, _ = whole_networks()
    assert torch.equal(found[0]["vae.decoder.conv_in.weight"], vae.decoder.conv_in.weight)
    torch.testing.assert_close(found[0]["prompt"], empty_prompt(text_encoder()))


def test_prompt_of_nothing_follows_the_tower():
    tensors = text_encoder()
    weights = {n.removeprefix("text_model."): t for n, t in tensors.items()}
    ids = torch.tensor([49406, 49407, 49407, 49407])
    x = weights["embeddings.token_embedding.weight"][ids] + weights["embeddings.position_embedding.weight"]
    norm = lambda name, x: torch.layer_norm(x, (64,), weights[f"{name}.weight"], weights[f"{name}.bias"])  # noqa: E731
    linear = lambda name, x: x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]  # noqa: E731
    layer = "encoder.layers.0."
    normed = norm(f"{layer}layer_norm1", x)
    q, k, v = (linear(f"{layer}self_attn.{p}_proj", normed) for p in "qkv")
    scores = (q @ k.T / 8).masked_fill(~torch.ones(4, 4, dtype=torch.bool).tril(), float("-inf"))
    x = x + linear(f"{layer}self_attn.out_proj", scores.softmax(-1) @ v)
    hidden = linear(f"{layer}mlp.fc1", norm(f"{layer}layer_norm2", x))
    x = x + linear(f"{layer}mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    torch.testing.assert_close(empty_prompt(tensors)[0], norm("final_layer_norm", x), rtol=1e-4, atol=1e-5)


def test_licence_is_said(tmp_path, caplog):
    ldm_file(tmp_path / "sd.ckpt")
    read_diffusion_weights(str(tmp_path / "sd.ckpt"))
    assert "OpenRAIL" in caplog.text and "1.1 to 1.5 can't be told apart" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {n.replace("cond_stage_model.transformer", "cond_stage_model.model"): t for n, t in s.items()},
            "v2",
        ),
        (lambda s: {**s, "conditioner.embedders.0.x": torch.zeros(1)}, "XL"),
        (lambda s: {**s, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}, "inpainting"),
        (
            lambda s: {n: torch.zeros(t.shape[0], 1024) if "attn2.to_k" in n else t for n, t in s.items()},
            r"v2 \(its UNet reads",
        ),
        (lambda s: {n: t for n, t in s.items() if "text_model" not in n}, "no Stable Diffusion checkpoint"),
        (lambda s: {**s, "model.diffusion_model.extra": torch.zeros(1)}, "model.diffusion_model.extra"),
        (lambda s: {n: t for n, t in s.items() if "middle_block.0" not in n}, "does not fit MODEL.ODISE.DIFFUSION"),
        (lambda s: {"a.weight": torch.zeros(1)}, "no Stable Diffusion checkpoint"),
    ],
)
def test_other_versions_are_told(tmp_path, change, message):
    path = tmp_path / "other.safetensors"
    save_file({n: t.contiguous() for n, t in change(LDM.to_official(ours())).items()}, path)
    with pytest.raises(UserError, match=message):
        load_stable_diffusion(*model_and_captioner(), str(path))


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="neither a file nor a folder"):
        read_diffusion_weights(str(tmp_path / "none.ckpt"))
    with pytest.raises(UserError, match=r"unet/.*holds no"):
        read_diffusion_weights(str(tmp_path))


class Attack:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_lightning_file_runs_nothing(tmp_path):
    trap = tmp_path / "executed"
    path = tmp_path / "evil.ckpt"
    write_lightning(path, {"w": torch.ones(2), "extra": Attack(trap)})
    with pytest.raises(UserError, match=r"io\.open.*could run code"):
        load_checkpoint_file(path)
    assert not trap.exists()
    write_lightning(path, {"w": torch.ones(2)})
    assert torch.equal(load_checkpoint_file(path)["state_dict"]["w"], torch.ones(2))
    # A damaged one is said to be damaged.
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if not name.endswith("data/0")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint_file(path)


def test_the_shipped_toybox_model_is_whole_and_knows_the_tiny_clips_empty_prompt() -> None:
    model = build_from_config(load_config(find_config("toybox/odise"), ("MODEL.DEVICE", "cpu")))
    clip, tokenizer = load_clip("toybox-vit", pretrained="toybox")
    expected = prompt_tokens(clip, tokenizer, [""], model.features.captioner.empty_prompt.shape[1])
    torch.testing.assert_close(model.features.captioner.empty_prompt, expected, rtol=1e-3, atol=2e-3)
    # Trained latents have the scale of the published ones: deviation 1 on pictures of the kind that they learnt from.
    rng = np.random.default_rng(0)
    picture = render_scene(
        rng, TextureBank(0, tiles_per_stuff=1), ("grass", "sand"), (Thing("plain", "red", "star"),), 128, 128
    ).image
    latents = encode_pictures(model.features.diffusion.vae, torch.from_numpy(picture).permute(2, 0, 1)[None])
    assert 0.5 < latents.std() < 1.6

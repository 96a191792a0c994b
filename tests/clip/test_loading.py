"""CLIP by name, tag or file, with the right activation."""

from __future__ import annotations

import pickle
import warnings
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from twostage.clip import loading
from twostage.clip.loading import load_clip
from twostage.errors import UserError


def activation(model):
    return type(model.visual.transformer.resblocks[0].mlp.gelu).__name__


@pytest.fixture
def small_model(tmp_path):
    """A small architecture under a name of its own."""
    (tmp_path / "tiny-test.json").write_text(
        '{"embed_dim": 16, "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},'
        ' "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}'
    )
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    return "tiny-test"


def test_activation_follows_the_tag(monkeypatch, small_model):
    monkeypatch.setattr(
        open_clip, "get_pretrained_cfg", lambda _n, tag: {"quick_gelu": True} if tag == "openai" else {}
    )
    model, _ = loading.load_clip(small_model, pretrained="openai", load_weights=False)
    assert activation(model) == "QuickGELU"
    with pytest.raises(UserError, match=r"QUICK_GELU.*'off'.*trained with it on"):
        loading.load_clip(small_model, pretrained="openai", quick_gelu="off", load_weights=False)


def test_openai_tags_are_known_to_need_quickgelu():
    assert loading._force_quick_gelu("ViT-B-16", "openai", "auto") is True
    assert loading._force_quick_gelu("ViT-L-14-336", "openai", "on") is True
    assert loading._force_quick_gelu("ViT-B-16", "laion2b_s34b_b88k", "auto") is False
    with pytest.raises(UserError):
        loading._force_quick_gelu("ViT-B-16", "laion2b_s34b_b88k", "on")


def test_forced_activation_without_a_tag(small_model):
    assert activation(loading.load_clip(small_model)[0]) == "GELU"
    assert activation(loading.load_clip(small_model, quick_gelu="on")[0]) == "QuickGELU"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_local_file(small_model, tmp_path, suffix):
    model, tokenizer = loading.load_clip(small_model)
    state = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    loaded, _ = loading.load_clip(small_model, pretrained=str(path))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name])
    assert not loaded.training
    assert tokenizer(["cat"]).shape == (1, 77)


def test_weights_of_another_model(small_model, tmp_path):
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors.*tiny-test"):
        loading.load_clip(small_model, pretrained=str(tmp_path / "other.safetensors"))


def test_unknown_names():
    with pytest.raises(UserError, match=r"ViT-B-61.*ViT-B-16"):
        loading.load_clip("ViT-B-61")
    with pytest.raises(UserError, match=r"neither a file nor a tag.*openai"):
        loading.load_clip("ViT-B-16", pretrained="opnai")


def test_download_failure_names_the_way_out(monkeypatch, small_model):
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "https://openaipublic.example/a.pt"})
    monkeypatch.setenv("TWOSTAGE_OFFLINE", "1")
    with pytest.raises(UserError, match=r"TWOSTAGE_OFFLINE.*openaipublic.*MODEL\.CLIP\.PRETRAINED"):
        loading.load_clip(small_model, pretrained="openai")


def openai_file(path, model, *, torchscript):
    """The layout of OpenAI's files: half precision, three integers besides, as a state dict or a scripted module."""
    half = {name: value.half() for name, value in model.state_dict().items()}
    half |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    if not torchscript:
        torch.save(half, path)
        return
    root = torch.nn.Module()
    for name, value in half.items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if not hasattr(module, folder):
                module.add_module(folder, torch.nn.Module())
            module = getattr(module, folder)
        module.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(root).save(str(path))


def test_a_local_files_activation_holds_where_a_checkpoint_brings_the_weights(small_model, tmp_path):
    """A network trained from OpenAI's file is the same one when it is built again for its own checkpoint."""
    openai_file(tmp_path / "clip.pt", loading.load_clip(small_model)[0], torchscript=False)
    for weights in (True, False):
        model, _ = loading.load_clip(small_model, pretrained=str(tmp_path / "clip.pt"), load_weights=weights)
        assert activation(model) == "QuickGELU"
    with pytest.raises(UserError, match="neither a file nor a tag"):
        loading.load_clip(small_model, pretrained=str(tmp_path / "gone.pt"), load_weights=False)
    model, _ = loading.load_clip(small_model, pretrained="gone.pt", quick_gelu="on", load_weights=False)
    assert activation(model) == "QuickGELU"


@pytest.mark.parametrize("torchscript", [False, True])
def test_openai_files_load_without_running_them(tmp_path, monkeypatch, torchscript):
    def never(*_args, **_kwargs):
        raise AssertionError("the archive was run")

    source, _ = load_clip("toybox-vit", pretrained="")
    openai_file(tmp_path / "clip.pt", source, torchscript=torchscript)
    monkeypatch.setattr(torch.jit, "load", never)
    loaded, _ = load_clip("toybox-vit", pretrained=str(tmp_path / "clip.pt"))
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float()), name
    # OpenAI trained with QuickGELU, whatever the model's name says.
    assert "QuickGELU" in repr(loaded.visual)
    with pytest.raises(UserError, match="trained with it on"):
        load_clip("toybox-vit", pretrained=str(tmp_path / "clip.pt"), quick_gelu="off")


def test_an_archive_with_other_names_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(Evil()))
        archive.writestr("evil/constants.pkl", pickle.dumps(()))
    with pytest.raises(UserError, match=r"builtins\.print"):
        load_clip("toybox-vit", pretrained=str(tmp_path / "evil.pt"))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged"):
        load_clip("toybox-vit", pretrained=str(tmp_path / "cut.pt"))

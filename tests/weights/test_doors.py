"""Every door where weights are asked for takes names and addresses: Python, config, command line, CLIP, DINO, diffusion."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import twostage
from twostage.checkpoint.checkpointer import Checkpointer
from twostage.clip import loading
from twostage.commands import weights as command
from twostage.commands.arguments.systems import weights_parser
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.weights.find import weights_file
from twostage.weights.tags import open_clip_addresses, timm_addresses
from weights.server import Server

TOYBOX_VIT = Path(loading.__file__).with_name("weights") / "toybox-vit.safetensors"
OPTS = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""]


@pytest.fixture
def checkpoint(server: Server, tmp_path: Path) -> dict[str, torch.Tensor]:
    """A toy SAN with weights of its own, which the server has as a file; its tensors."""
    model = twostage.load("toybox/san", device="cpu", opts=OPTS).model
    torch.save({"model": model.state_dict(), "meta_architecture": "SAN"}, tmp_path / "san.pth")
    server.content = (tmp_path / "san.pth").read_bytes()
    return model.state_dict()


def test_addresses_from_python_and_config(server: Server, checkpoint: dict[str, torch.Tensor]) -> None:
    loaded = twostage.load("toybox/san", weights=f"{server.url}/san.pth", device="cpu", opts=OPTS)
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, checkpoint[name]), name
    again = twostage.load("toybox/san", device="cpu", opts=[*OPTS, "MODEL.WEIGHTS", f"{server.url}/san.pth"])
    torch.nn.init.zeros_(again.model.get_parameter(name := next(iter(dict(again.model.named_parameters())))))
    Checkpointer(again.model).load(f"{server.url}/san.pth")
    assert torch.equal(again.model.state_dict()[name], checkpoint[name])
    assert len(server.requests) == 1


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> OfficialCheckpoint:
    """SAN's first checkpoint, as if it had been published on our server for our toy config."""
    found = OfficialCheckpoint(
        name="toy.pth", source=f"{server.url}/toy.pth", config="toybox/san", train="toybox", note="for tests"
    )
    monkeypatch.setattr("twostage.weights.names.all_cards", lambda: (card(found),))
    monkeypatch.setattr("twostage.commands.weights.all_cards", lambda: (card(found),))
    return found


def card(checkpoint: OfficialCheckpoint) -> SystemCard:
    return SystemCard(
        name="Toy",
        paradigm="two-stage",
        title="",
        venue="",
        paper="",
        code="",
        code_licence="",
        weights_licence="CC0 (none)",
        meta_architecture="SAN",
        module="",
        configs=("toybox/san", "toybox/clip"),
        checkpoints=(checkpoint,),
    )


def test_names(server: Server, checkpoint: dict[str, torch.Tensor], published: OfficialCheckpoint) -> None:
    for name in ("official", "toy.pth"):
        loaded = twostage.load("toybox/san", weights=name, device="cpu", opts=OPTS)
        assert all(torch.equal(t, checkpoint[n]) for n, t in loaded.model.state_dict().items())
    assert load_config("configs/toybox/san.yaml", ["MODEL.WEIGHTS", "official"]).MODEL.WEIGHTS == "toy.pth"
    with pytest.raises(
        UserError, match=r"'toi\.pth' does not exist \(did you mean 'toy\.pth'\?\); check MODEL\.WEIGHTS"
    ):
        weights_file("toi.pth")


def test_a_file_goes_before_a_name(
    server: Server, published: OfficialCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("toy.pth").write_bytes(b"mine")
    assert weights_file("toy.pth") == Path("toy.pth") and not server.requests


def test_official_belongs_to_a_config(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("MODEL:\n  WEIGHTS: official\n")
    with pytest.raises(UserError, match=r"'official', but '.*mine\.yaml' is no published config"):
        load_config(str(tmp_path / "mine.yaml"))
    with pytest.raises(UserError, match=r"MODEL\.CLIP\.PRETRAINED is 'official': neither a file nor a tag"):
        loading.load_clip("ViT-B-16", pretrained="official")


def test_a_pickle_is_refused_before_it_is_downloaded(server: Server) -> None:
    with pytest.raises(
        UserError, match=r"is a pickle, which could run code.*weights get .*convert it to \.safetensors"
    ):
        weights_file(f"{server.url}/model.pkl")
    with pytest.raises(UserError, match=r"model_final_500878\.pkl is a pickle"):
        weights_file("model_final_500878.pkl")
    assert not server.requests


def test_a_downloaded_file_is_never_unpickled(server: Server, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "hook": print}, tmp_path / "evil.pth")
    server.content = (tmp_path / "evil.pth").read_bytes()
    with pytest.raises(UserError, match="pickled objects besides tensors"):
        twostage.load("toybox/san", weights=f"{server.url}/evil.pth", device="cpu", opts=OPTS)


def test_clip_by_address_and_by_tag(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.content = TOYBOX_VIT.read_bytes()
    wanted, _ = loading.load_clip("toybox-vit", pretrained="toybox")
    by_address, _ = loading.load_clip("toybox-vit", pretrained=f"{server.url}/clip.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": "", "hf_hub": "laion/toy/"})
    by_tag, _ = loading.load_clip("toybox-vit", pretrained="laion2b")
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, by_address.state_dict()[name]) and torch.equal(tensor, by_tag.state_dict()[name])
    assert [path for path, *_ in server.requests] == [
        "/clip.safetensors",
        "/laion/toy/resolve/main/open_clip_model.safetensors",
    ]


def test_where_tags_lead() -> None:
    (openai,) = open_clip_addresses(open_clip.get_pretrained_cfg("ViT-L-14-336", "openai"))
    assert openai.text.endswith("/ViT-L-14-336px.pt") and openai.sha256.startswith("3035c92b")
    laion = open_clip_addresses(open_clip.get_pretrained_cfg("ViT-B-16", "laion2b_s34b_b88k"))
    assert [address.place.name for address in laion] == ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for name, tag in open_clip.list_pretrained():
        assert open_clip_addresses(open_clip.get_pretrained_cfg(name, tag)), (name, tag)


def test_a_frozen_vit_by_tag_and_by_address(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    from twostage.systems.one_stage.cost_aggregation.variants import frozen_vit

    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    server.content = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    tags = frozen_vit._tags("test_vit")
    for pretrained in (next(iter(tags)), f"{server.url}/vit.safetensors"):
        fresh = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
        filled = frozen_vit._with_weights(fresh, "test_vit", pretrained, known=tags)
        assert all(torch.equal(tensor, filled.state_dict()[name]) for name, tensor in vit.state_dict().items())
    assert [path for path, *_ in server.requests] == [
        f"/timm/test_vit.{next(iter(tags))}/resolve/main/model.safetensors",
        "/vit.safetensors",
    ]
    dino = frozen_vit._tags("vit_small_patch14_dinov2")["lvd142m"]
    assert timm_addresses(dino)[0].text == "hf://timm/vit_small_patch14_dinov2.lvd142m/model.safetensors"


def test_stable_diffusion_by_name_and_address(server: Server, home: Path) -> None:
    from twostage.systems.two_stage.odise.diffusion.stable_diffusion import read_diffusion_weights

    server.content = b"not a checkpoint"
    with pytest.raises(UserError, match=r"checkpoint '.*/sd\.ckpt' holds pickled objects"):
        read_diffusion_weights(f"{server.url}/sd.ckpt")
    assert len(server.requests) == 1
    with pytest.raises(UserError, match=r"which is neither a file nor a folder; 'sd-v1-3\.ckpt' gets"):
        read_diffusion_weights("sd-v1-4.ckpt")
    place = home / "weights/huggingface.co/CompVis/stable-diffusion-v-1-3-original/main/sd-v1-3.ckpt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"nor this")
    with pytest.raises(UserError, match=r"checkpoint '.*/main/sd-v1-3\.ckpt' holds pickled objects"):
        read_diffusion_weights("sd-v1-3.ckpt")


def run(*words: str) -> None:
    command.run_from_arguments(weights_parser().parse_args(words))


def test_the_command(server: Server, published: OfficialCheckpoint, home: Path, capsys: pytest.CaptureFixture) -> None:
    run("list")
    assert "toy.pth" in (before := capsys.readouterr().out) and "CC0" in before and "?" in before
    run("get", "toybox/san", f"{server.url}/other.pth")
    first, other = map(Path, capsys.readouterr().out.split())
    assert first.read_bytes() == other.read_bytes() == server.content
    run("list", "Toy", "--json")
    (told,) = json.loads(capsys.readouterr().out)
    assert (
        told["here"] and told["place"] == str(first) and told["licence"] == "CC0 (none)" and told["note"] == "for tests"
    )
    run("verify")
    assert capsys.readouterr().out.count("as on first use") == 2
    other.write_bytes(b"changed")
    with pytest.raises(UserError, match=r"1 of 2 files are wrong: .*other\.pth' has changed"):
        run("verify")
    run("verify", "toy.pth")
    shutil.rmtree(home)
    with pytest.raises(UserError, match=r"toy\.pth' is not here"):
        run("verify", "toy.pth")
    run("verify")
    assert "nothing is in" in capsys.readouterr().out


def test_names_that_the_command_does_not_know() -> None:
    for words, message in (
        (["list", "SUN"], r"no system 'SUN' \(did you mean 'SAN'\?\)"),
        (["get", "san_vit"], r"no published checkpoint or config 'san_vit' \(did you mean .*'san_vitb'"),
        (["get", "sclip_vitb"], "needs no checkpoint"),
        (["get", "toybox/san"], "nothing was published"),
    ):
        with pytest.raises(UserError, match=message):
            run(*words)

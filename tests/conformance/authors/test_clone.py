"""Opening a clone of the authors' code, and what is said where something is missing; the clone is written by the test."""

from __future__ import annotations

import importlib
import sys

import open_clip
import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from conformance.authors import clone
from conformance.authors.clone import check_installed, opened
from conformance.authors.command import authors_of, seeded_config
from conformance.authors.standin import StandIn
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.systems.two_stage.san.model import SAN


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """The folder of the clone; its package's `__init__` may not run."""
    files = {
        "standin/__init__.py": "raise RuntimeError('registers datasets')",
        "standin/model.py": "import open_clip, standin_cuda\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "from .parts import side\n"
        "@META_ARCH_REGISTRY.register()\n"
        "class SAN:\n    version = open_clip.VERSION\n",
        "standin/parts.py": "import beside as side",
        "more/beside.py": "",
        "pinned/open_clip/__init__.py": "VERSION = 'pinned'",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(clone, "is_own", lambda: False)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("standin", "standin_cuda", "beside")]:
        del sys.modules[name]


def test_their_modules_are_imported_beside_ours(standin):
    path = list(sys.path)
    with opened(StandIn(), standin, standin / "pinned"):
        theirs = importlib.import_module("standin.model").SAN
        assert META_ARCH_REGISTRY.get("SAN") is theirs and theirs.version == "pinned"
    assert META_ARCH_REGISTRY.get("SAN") is SAN
    assert sys.modules["open_clip"] is open_clip and importlib.import_module("open_clip.tokenizer").SimpleTokenizer
    assert sys.path == path


def test_ours_comes_back_after_an_error(standin):
    with pytest.raises(ZeroDivisionError), opened(StandIn(), standin, standin / "pinned"):
        1 / 0  # noqa: B018
    assert META_ARCH_REGISTRY.get("SAN") is SAN and sys.modules["open_clip"] is open_clip


def test_what_is_missing_is_said(standin, monkeypatch):
    with pytest.raises(UserError, match=r"no folder 'standin'; clone https://github\.com/somebody/standin"):
        clone.check_clone(StandIn(), standin / "pinned")
    with pytest.raises(UserError, match="code is missing; clone"):
        clone.check_clone(StandIn(), None)
    with pytest.raises(UserError, match=r"pip install one==1 three==3$"):
        check_installed({"no_such_module_1": "one==1", "json": "two==2", "no_such_module_3": "three==3"})
    monkeypatch.setattr(clone, "is_own", lambda: True)
    with pytest.raises(UserError, match="needs upstream Detectron2; install it"), opened(StandIn(), standin):
        pass


@pytest.mark.parametrize(
    ("config", "repository"),
    [
        ("san_vitb", "MendelXu/SAN"),
        ("sed_convnextb", "xb534/SED"),
        ("catseg_vitb", "cvlab-kaist/CAT-Seg"),
        ("mask2former_r50_coco", "facebookresearch/Mask2Former"),
        ("fcclip_convnextl", "bytedance/fc-clip"),
        ("errseg_convnextb", "lchen1019/ERR-Seg"),
        ("naclip_vitb", "sinahmr/NACLIP"),
    ],
)
def test_systems_that_are_compared(config, repository):
    assert authors_of(load_config(find_config(config))).repository == repository


@pytest.mark.parametrize(
    ("config", "activation"), [("naclip_vitb", "on"), ("san_vitb", "on"), ("sed_convnextb", "auto")]
)
def test_random_weights_keep_the_activation_of_pretrained_ones(config, activation):
    keys = seeded_config(find_config(config), ["MODEL.DEVICE", "cpu"]).MODEL.CLIP
    found = keys.QUICK_GELU
    assert found == activation and not keys.PRETRAINED


@pytest.mark.parametrize(("config", "name"), [("scan_vitb", "scan"), ("sclip_vitb", "sclip")])
def test_others_are_refused(config, name):
    with pytest.raises(
        UserError, match=f"'{name}' is not compared with its authors' code by this tool; these are: cats"
    ):
        authors_of(load_config(find_config(config)))

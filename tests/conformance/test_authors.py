"""Ours beside the authors' code, as far as it can be tested without their code: a stand-in takes its place."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from conformance.authors import clone
from conformance.authors.building import Models
from conformance.authors.clone import check_installed, opened
from conformance.authors.command import authors_of
from conformance.authors.contract import Authors
from conformance.authors.copying import copy_weights, seed_weights
from conformance.authors.feeding import random_text, smooth_picture, words
from conformance.authors.measuring import agreement, measure, table
from conformance.authors.sides import Picture, Side, Step
from twostage.allocator import KEEP
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.two_stage.san.model import SAN

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "toybox" / "san.yaml"


class StandIn(Authors):
    """A clone whose package registers its model under the name of ours."""

    repository = "somebody/standin"
    package = "standin"
    folders = ("more",)
    empty = {"standin_cuda": "stands for a compiled operator"}

    def build(self, request):
        raise NotImplementedError

    def set_words(self, model, names, text):
        self.told = list(names)


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


class Versioned(nn.Linear):
    """Reads weights without a note of their version as those of an older layout, as Mask2Former's head does."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *more):
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


def test_every_tensor_is_matched_or_named():
    theirs = nn.ModuleDict({"a": Versioned(2, 3), "b": nn.BatchNorm1d(3)})
    weights = {name: torch.full_like(value, 2) for name, value in theirs.state_dict().items()}
    copy_weights(weights, theirs, constants=())
    assert all(bool((value == 2).all()) for value in theirs.state_dict().values())
    fewer = {name: value for name, value in weights.items() if not name.startswith("b.running")}
    with pytest.raises(UserError, match=r"2 theirs that ours lacks: b\.running_mean, b\.running_var$"):
        copy_weights(fewer, theirs, constants=())
    copy_weights(fewer, theirs, constants=[r"b\.running_.*"])
    with pytest.raises(UserError, match=r"1 ours that theirs lacks: c$"):
        copy_weights({**weights, "c": torch.zeros(1)}, theirs, constants=())
    with pytest.raises(UserError, match=r"Dict; compare the settings: 1 of another shape: a\.bias$"):
        copy_weights({**weights, "a.bias": torch.zeros(4)}, theirs, constants=())


def test_agreement():
    scores = torch.rand(3, 4, 5, dtype=torch.float64) + 1
    one = Picture(labels=scores.argmax(0), scores=scores)
    labels, moved = one.labels.clone(), scores.clone()
    labels[0, 0] += 1
    moved[1, 2, 3] += 0.25 * scores.max()
    other = Picture(labels=labels, scores=moved)
    assert agreement(one, one) == {"equal labels": 1.0, "scores apart": 0.0}
    found = agreement(other, one)
    assert found["equal labels"] == pytest.approx(19 / 20) and found["scores apart"] == pytest.approx(0.25)
    with pytest.raises(UserError, match="compare the settings"):
        agreement(one, Picture(labels=labels, scores=scores[:2]))
    found = agreement(Step(loss=2.2, gradient=3.0), Step(loss=2.0, gradient=4.0))
    assert found == pytest.approx({"loss apart": 0.1, "gradient norm apart": 0.25})


def test_both_sides_are_measured_in_turns():
    calls = []

    def side(name, work):
        def run():
            calls.append(name)
            for _ in range(work):
                torch.ones(400, 400) @ torch.ones(400, 400)
            return torch.zeros(2, 2)

        return Side(run=run, result=lambda: Picture(labels=run(), scores=torch.ones(1, 2, 2)))

    row = measure({"ours": side("ours", 5), "theirs": side("theirs", 60)}, turns=3)
    assert row["ratios"]["processor"]["low"] > 2
    assert calls[2:8] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert row["equal labels"] == 1 and row["sides"]["ours"]["classes in the label map"] == 1
    shown = table({"classes": 3, **row})
    assert "theirs / ours, processor" in shown and "100.000%" in shown
    alone = measure({"theirs": side("theirs", 1)}, turns=1)
    assert "ratios" not in alone and "ours" not in table({"classes": 3, **alone})


@pytest.fixture(scope="module")
def toy():
    cfg = load_config(
        str(CONFIG),
        [
            "MODEL.DEVICE",
            "cpu",
            "MODEL.CLIP.TEXT_CACHE",
            "",
            "MODEL.CLIP.PRETRAINED",
            "",
            "TEST.SEMANTIC_OUTPUT",
            "scores",
        ],
    )
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("training", [False, True])
def test_a_wrong_model_would_be_noticed(toy, training):
    ours = copy.deepcopy(toy).train(training)
    official = seed_weights(ours, ours.checkpoint_table())
    assert torch.equal(official["side_adapter_network.query_embed"], ours.side_adapter.query_embed)
    text = random_text(ours, words(5))
    # Our own model answers to Detectron2's interface as theirs do.
    theirs = copy.deepcopy(ours)
    theirs.text = ours.text
    models = Models(authors=StandIn(), ours=ours, theirs=theirs, texts={5: text})

    def row():
        sides = models.steps(5, (64, 96), 2) if training else models.pictures(5, (64, 96), (50, 75))
        return measure(sides, 1)

    equal = row()
    assert models.authors.told == words(5)
    with torch.no_grad():
        theirs.side_adapter.decoder.pix_mlp.layers[-1].bias.add_(1)
    wrong = row()
    if training:
        assert equal["loss apart"] < 1e-6 and equal["gradient norm apart"] < 1e-5
        assert wrong["loss apart"] > 1e-4
    else:
        assert equal["equal labels"] == 1 and equal["scores apart"] < 1e-5
        assert wrong["scores apart"] > 1e-3


def test_the_picture_is_smooth_noise():
    picture = smooth_picture((80, 120)).float()
    assert picture.shape == (3, 80, 120) and picture.std() > 30
    assert (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean() < 4
    assert not torch.equal(smooth_picture((80, 120), 1).float(), picture)


def test_systems_that_are_compared():
    for name in ("SAN", "SED", "CATSeg", "Mask2Former", "FCCLIP"):
        authors = authors_of(name)
        assert isinstance(authors, Authors) and authors.repository.count("/") == 1
    with pytest.raises(UserError, match="SCAN is not compared with its authors' code by this tool; these are: catseg"):
        authors_of("SCAN")


def test_the_tool_runs_our_side_alone(tmp_path):
    small = ["--classes", "3", "4", "--size", "64x80", "--output-size", "32x40", "--turns", "1"]
    command = [sys.executable, "tools/beside_authors.py", "--system", "toybox/san", *small]
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [*command, "--alone", "ours", "--json", output], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["setting"]["alone"] == "ours" and [row["classes"] for row in found["rows"]] == [3, 4]
    assert found["rows"][0]["sides"]["ours"]["processor"] > 0 and "theirs" not in found["rows"][0]["sides"]
    refused = subprocess.run([*command, "--code", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "clone https://github.com/MendelXu/SAN" in refused.stderr


@pytest.mark.parametrize(
    ("line", "kept"), [(["--alone", "theirs"], "0"), (["--alone=theirs"], "0"), (["--alone", "ours"], None), ([], None)]
)
def test_their_side_alone_leaves_glibc_as_it_is(monkeypatch, line, kept):
    monkeypatch.delenv(KEEP, raising=False)
    spec = importlib.util.spec_from_file_location("beside_authors", ROOT / "tools" / "beside_authors.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.leave_allocator(["--system", "san_vitb", *line, "MODEL.DEVICE", "cpu"])
    assert os.environ.get(KEEP) == kept
    # Set by the tool, not through monkeypatch.
    os.environ.pop(KEEP, None)

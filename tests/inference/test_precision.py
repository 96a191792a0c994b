"""Reduced precision: labels stay, what is handed out is float32, and values that can't be are refused."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from twostage import machine
from twostage.api import load
from twostage.commands.arguments.pictures import segment_parser
from twostage.config import load_config
from twostage.errors import UserError
from twostage.inference.precision import store_reduced, to_float32

WORDS = ["striped blue star", "grass", "sky", "green ring"]


class Pair(NamedTuple):
    first: torch.Tensor
    second: object


@dataclasses.dataclass(frozen=True)
class Record:
    maps: list[torch.Tensor]
    name: str


def test_results_become_float32_and_the_rest_stays():
    half, whole, count = torch.ones(2, dtype=torch.bfloat16), torch.ones(2), torch.ones(2, dtype=torch.int64)
    found = to_float32({"a": Pair(half, (whole, count, None)), "b": Record([half], "x")})
    assert isinstance(found["a"], Pair) and found["a"].first.dtype == torch.float32
    assert found["a"].second[0] is whole and found["a"].second[1] is count
    assert found["b"].maps[0].dtype == torch.float32 and found["b"].name == "x"


def test_weights_of_layers_are_stored_reduced_and_norms_are_not():
    trunk = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.MultiheadAttention(4, 2))
    store_reduced([trunk], torch.bfloat16)
    assert trunk[0].weight.dtype == trunk[2].in_proj_weight.dtype == trunk[2].out_proj.weight.dtype == torch.bfloat16
    assert trunk[1].weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["toybox/maskclip", "toybox/catseg"])
def test_a_system_computes_in_bfloat16(name):
    """Its layers do, its prediction does not, and its scores are close to those in float32."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores, used = [], []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        segmenter = load(name, device="cpu", precision=precision, opts=["MODEL.CLIP.TEXT_CACHE", ""])
        layer = segmenter.model.clip.visual.transformer.resblocks[0].mlp[0]
        hook = layer.register_forward_hook(lambda _module, _inputs, output: used.append(output.dtype))
        scores.append(segmenter(pixels, WORDS, others=None).scores())
        hook.remove()
    assert set(used) == {torch.float32, torch.bfloat16}
    assert scores[1].dtype == torch.float32
    difference = (scores[0] - scores[1]).abs().max()
    assert 0 < difference < 0.1 * (scores[0].max() - scores[0].min())


def test_masks_of_scan_are_those_of_float32():
    """Crops follow from single pixels of its masks; what CLIP sees in them is reduced."""
    image = torch.randint(0, 256, (3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    encoded = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = load("toybox/scan", device="cpu", precision=precision, opts=["MODEL.WEIGHTS", ""]).model
        with torch.inference_mode():
            encoded.append(model.encode(model.preprocess([{"image": image}])))
    whole, reduced = encoded
    assert torch.equal(whole.outputs[0][0], reduced.outputs[0][0])
    assert not torch.equal(whole.regions.embeddings, reduced.regions.embeddings)


def test_float16_needs_a_gpu_and_training_has_keys_of_its_own():
    cfg = load_config("", ["MODEL.PRECISION", "float16", "MODEL.DEVICE", "cpu"])
    with pytest.raises(UserError, match=r"float16.*GPU"):
        machine.settle_machine(cfg)
    with pytest.raises(UserError, match=r"MODEL.PRECISION is 'half'"):
        load_config("", ["MODEL.PRECISION", "half"])


@pytest.mark.parametrize(("able", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_fast_is_what_the_processor_can_do(monkeypatch, caplog, able, wanted):
    monkeypatch.setattr(machine, "cpu_has_bfloat16", lambda: able)
    arguments = segment_parser().parse_args(
        ["a.png", "--words", "cat", "--system", "san_vitb", "--fast", "--output", "o"]
    )
    cfg = load_config("", [*arguments.opts, "MODEL.DEVICE", "cpu"])
    machine.settle_machine(cfg)
    assert wanted == cfg.MODEL.PRECISION
    assert ("neither AVX512-BF16 nor AMX" in caplog.text) is not able

"""SAN's published optimizer settings, parameter by parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from twostage.config import load_config
from twostage.engine.optimizer import build_optimizer, parameter_settings
from twostage.systems.building import build_model

ROOT = Path(__file__).parents[2]


def test_parameter_settings_equal_the_published_run(reference: Path) -> None:
    published = json.loads((reference / "san" / "optimizer-base.json").read_text())
    cfg = load_config(str(ROOT / "configs" / "san_vitb.yaml"), ["MODEL.CLIP.PRETRAINED", "", "MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    # The table renames tensors; here it renames the settings.
    wanted = model.checkpoint_table().to_ours(dict(published["trainable"]), source="optimizer-base.json")
    settings = parameter_settings(cfg, model)
    assert settings.keys() == wanted.keys()
    parameters = dict(model.named_parameters())
    for name, expected in wanted.items():
        assert list(parameters[name].shape) == expected["shape"], name
        assert settings[name].lr == pytest.approx(published["base_lr"] * expected["lr_multiplier"]), name
        assert settings[name].weight_decay == pytest.approx(expected["weight_decay"]), name
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.defaults["eps"] == published["eps"]
    assert list(optimizer.defaults["betas"]) == published["betas"]
    assert cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 0.01

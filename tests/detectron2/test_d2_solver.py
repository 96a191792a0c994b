"""Optimizers and schedules: closed forms and goldens of upstream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.projects import deeplab
from detectron2.solver import build_lr_scheduler, build_optimizer, get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn


def solver_config(name: str, **changes: Any) -> Any:
    """Base rate 1, ten iterations, four of them warm-up from 0.1."""
    cfg = get_cfg()
    deeplab.add_deeplab_config(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = name, 1.0, 10
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.STEPS = 4, 0.1, (5, 8)
    for key, value in changes.items():
        setattr(cfg.SOLVER, key, value)
    return cfg


def rates(cfg: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = deeplab.build_lr_scheduler(cfg, optimizer)
    seen = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WarmupMultiStepLR", [0.1, 0.325, 0.55, 0.775, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (
            "WarmupCosineLR",
            [0.1, 0.238627, 0.377254, 0.515881, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472],
        ),
        (
            "WarmupPolyLR",
            [0.1, 0.295598, 0.449929, 0.562199, 0.631446, 0.535887, 0.438383, 0.338383, 0.234924, 0.125893],
        ),
    ],
)
def test_schedules(name: str, expected: list[float]) -> None:
    assert rates(solver_config(name)) == pytest.approx(expected, abs=1e-6)


def test_schedule_variants() -> None:
    constant = rates(solver_config("WarmupMultiStepLR", WARMUP_METHOD="constant"))
    assert constant == pytest.approx([0.1] * 4 + [1] + [0.1] * 3 + [0.01] * 2)
    ending = rates(solver_config("WarmupPolyLR", POLY_LR_CONSTANT_ENDING=0.4))
    assert ending[7:] == pytest.approx([0.4] * 3) and ending[0] == pytest.approx(0.1)
    with pytest.raises(ValueError):
        rates(solver_config("Nothing"))


def test_scheduler_states() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    standard = build_lr_scheduler(solver_config("WarmupCosineLR"), optimizer)
    assert set(standard.state_dict()) == {"base_lrs", "last_epoch"}
    poly = deeplab.build_lr_scheduler(solver_config("WarmupPolyLR"), optimizer)
    assert {"max_iters", "power", "warmup_iters", "last_epoch"} <= set(poly.state_dict())


def test_parameter_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    cfg = get_cfg()
    groups = build_optimizer(cfg, model).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(4, 1e-4), (2, 0.0)]
    model[2].weight.requires_grad = False
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        weight_decay=0.1,
        bias_lr_factor=2.0,
        overrides={"weight": {"weight_decay": 0.3}},
        lr_factor_func=lambda name: 0.5 if name.startswith("1.") else 1.0,
    )
    settings = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert settings[id(model[0].weight)] == (1.0, 0.3)
    assert settings[id(model[0].bias)] == (2.0, 0.1)
    assert settings[id(model[1].weight)] == (0.5, 0.3)
    assert id(model[2].weight) not in settings


def clip_config(kind: str, value: float) -> Any:
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, value
    return cfg


@pytest.mark.parametrize(("kind", "expected"), [("value", [-0.5, -0.5]), ("norm", [-0.3, -0.4])])
@pytest.mark.parametrize("by_class", [False, True])
def test_clipping_is_per_parameter(kind: str, expected: list[float], by_class: bool) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    cfg = clip_config(kind, 0.5)
    if by_class:
        optimizer = maybe_add_gradient_clipping(cfg, torch.optim.SGD)(parameters, lr=1.0)
    else:
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    assert type(optimizer).__name__ == "SGDWithGradientClip"
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.25])
    optimizer.step()
    torch.testing.assert_close(parameters[0].data, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert parameters[1].item() == -0.25


def test_unknown_clipping() -> None:
    with pytest.raises(ValueError):
        maybe_add_gradient_clipping(clip_config("full_model", 1.0), torch.optim.SGD)

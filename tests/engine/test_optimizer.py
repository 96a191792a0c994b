"""Parameter groups, clipping, schedule and the averaged weights."""

from __future__ import annotations

import pytest
import torch
from detectron2.projects.deeplab import build_lr_scheduler
from torch import nn

import twostage  # noqa: F401
from twostage.config import default_config
from twostage.engine.ema import ModelEma
from twostage.engine.optimizer import build_optimizer, parameter_group, parameter_settings
from twostage.errors import UserError


class ChannelNorm(nn.Module):
    """A norm layer of an own class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Adapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.query_pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.norm = nn.LayerNorm(4)
        self.channel_norm = ChannelNorm()
        self.fc = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.side_adapter = Adapter()
        self.clip = nn.Module()
        self.clip.positional_embedding = nn.Parameter(torch.zeros(5, 4))
        self.clip.ln = nn.LayerNorm(4)
        self.backbone = nn.Conv2d(3, 3, 1)
        self.shared = self.side_adapter.fc
        self.void_embedding = nn.Parameter(torch.zeros(1, 4))


def config(**solver: object):
    cfg = default_config()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1, 0.01, 0.002
    cfg.SOLVER.WEIGHT_DECAY_EMBED, cfg.SOLVER.BACKBONE_MULTIPLIER, cfg.SOLVER.CLIP_MULTIPLIER = 0.003, 0.5, 0.25
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def test_settings_of_every_trainable_parameter() -> None:
    settings = parameter_settings(config(), Model())
    assert {name: (round(lr, 6), decay) for name, (lr, decay) in settings.items()} == {
        "side_adapter.query_embed": (0.1, 0.003),
        "side_adapter.query_pos_embed": (0.1, 0.003),
        "side_adapter.pos_embed": (0.1, 0.003),
        "side_adapter.norm.weight": (0.1, 0.002),
        "side_adapter.norm.bias": (0.1, 0.002),
        "side_adapter.channel_norm.weight": (0.1, 0.01),
        "side_adapter.fc.weight": (0.1, 0.01),
        "side_adapter.fc.bias": (0.1, 0.01),
        "clip.positional_embedding": (0.025, 0.003),
        "clip.ln.weight": (0.025, 0.002),
        "clip.ln.bias": (0.025, 0.002),
        "backbone.weight": (0.05, 0.01),
        "backbone.bias": (0.05, 0.01),
        "void_embedding": (0.1, 0.01),
    }


def test_groups_hold_every_parameter_once_and_a_model_may_decide() -> None:
    model = Model()
    optimizer = build_optimizer(config(), model)
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(members) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(optimizer.param_groups) == 6
    assert all(group["betas"] == (0.9, 0.999) and group["eps"] == 1e-8 for group in optimizer.param_groups)
    model.parameter_group = lambda name: "clip" if name == "void_embedding" else None
    settings = parameter_settings(config(), model)
    assert settings["void_embedding"].lr == pytest.approx(0.025) and settings["backbone.weight"].lr == 0.1
    assert parameter_group("a.clipped.weight") is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # gradients (3, 0) and (0, 4), lr 1: all together norm 5; per tensor norms 3 and 4; per value
        ("full_model", [[-0.3, 0.0], [0.0, -0.4]]),
        ("norm", [[-0.5, 0.0], [0.0, -0.5]]),
        ("value", [[-0.5, 0.0], [0.0, -0.5]]),
        (None, [[-3.0, 0.0], [0.0, -4.0]]),
    ],
)
def test_clipping(kind: str | None, expected: list[list[float]]) -> None:
    model = nn.Module()
    model.a, model.pos_embed = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    cfg = config(OPTIMIZER="SGD", BASE_LR=1.0, MOMENTUM=0.0, WEIGHT_DECAY=0.0, WEIGHT_DECAY_EMBED=0.1)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = kind is not None
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind or "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    optimizer = build_optimizer(cfg, model)
    assert len(optimizer.param_groups) == 2
    model.a.grad, model.pos_embed.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(torch.stack([model.a, model.pos_embed]), torch.tensor(expected), atol=1e-5, rtol=0)


def test_clipping_leaves_small_gradients() -> None:
    model = nn.Linear(1, 1, bias=False)
    cfg = config(OPTIMIZER="SGD", BASE_LR=1.0, MOMENTUM=0.0, WEIGHT_DECAY=0.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.5
    optimizer = build_optimizer(cfg, model)
    before = model.weight.item()
    model.weight.grad = torch.tensor([[0.25]])
    optimizer.step()
    assert model.weight.item() == pytest.approx(before - 0.25)


@pytest.mark.parametrize(
    ("warmup", "factor", "expected"),
    [
        (4, 0.1, [0.1, 0.295598, 0.449929, 0.562199, 0.631446, 0.535887, 0.438383, 0.338383, 0.234924, 0.125893]),
        (0, 0.1, [(1 - i / 10) ** 0.9 for i in range(10)]),
    ],
)
def test_poly_schedule(warmup: int, factor: float, expected: list[float]) -> None:
    cfg = config(BASE_LR=1.0, MAX_ITER=10, WARMUP_ITERS=warmup, WARMUP_FACTOR=factor, OPTIMIZER="SGD")
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected, abs=1e-6)
    assert optimizer.param_groups[0]["lr"] == 0


def test_average_closed_form() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    nn.init.constant_(model.weight, 5.0)
    ema = ModelEma(model, decay=0.8)
    seen = [1.0, -2.0, 4.0]
    for value in seen:
        nn.init.constant_(model.weight, value)
        ema.update()
    expected = 0.8**3 * 5 + 0.2 * sum(0.8 ** (2 - i) * value for i, value in enumerate(seen))
    assert list(ema.state_dict()) == ["weight"]
    assert float(ema.state_dict()["weight"]) == pytest.approx(expected)
    with ema.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4.0
    other = ModelEma(nn.Linear(1, 1), decay=0.8)
    with pytest.raises(UserError, match="averaged weights"):
        other.load_state_dict(ema.state_dict())

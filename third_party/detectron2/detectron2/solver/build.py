"""Optimizers and schedules from configs."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)
from torch import nn

from detectron2.config import CfgNode
from detectron2.solver.lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = ["build_lr_scheduler", "build_optimizer", "get_default_optimizer_params", "maybe_add_gradient_clipping"]

_NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)

ParameterGroup = dict[str, Any]


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[ParameterGroup]:
    """torch's parameter groups for the trainable parameters; a shared one is in the group of its first name.

    Args:
        weight_decay_norm: of weights and biases of norm layers; None: as the others.
        bias_lr_factor, weight_decay_bias: for parameters called "bias"; None: as the others.
        lr_factor_func: from a parameter's full name to a multiplier of its learning rate.
        overrides: settings by the last part of the parameter's name, e.g. `{"pos_embed": {"weight_decay": 0}}`.

    Raises:
        ValueError: a learning rate has to be multiplied, but there is no `base_lr`.
    """
    by_name = _overrides(base_lr, bias_lr_factor, weight_decay_bias, overrides or {})
    if lr_factor_func is not None and base_lr is None:
        raise ValueError("lr_factor_func multiplies base_lr, which is not given")
    defaults = {key: value for key, value in (("lr", base_lr), ("weight_decay", weight_decay)) if value is not None}
    seen: set[nn.Parameter] = set()
    groups: list[ParameterGroup] = []
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            settings = dict(defaults)
            if isinstance(module, _NORM_LAYERS) and weight_decay_norm is not None:
                settings["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                settings["lr"] *= lr_factor_func(f"{prefix}.{name}")
            groups.append({"params": [parameter], **settings, **by_name.get(name, {})})
    return _merge(groups)


def _overrides(
    base_lr: float | None, bias_lr_factor: float | None, weight_decay_bias: float | None, given: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Settings by the parameter's own name: those for biases, and the caller's."""
    bias: dict[str, float] = {}
    if bias_lr_factor not in (None, 1.0):
        if base_lr is None:
            raise ValueError("bias_lr_factor multiplies base_lr, which is not given")
        bias["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias and "bias" in given:
        raise ValueError("overrides for 'bias' and bias_lr_factor / weight_decay_bias exclude each other")
    return {"bias": bias, **given}


def _merge(groups: Iterable[ParameterGroup]) -> list[ParameterGroup]:
    """One group per set of settings: optimizers are faster over few groups."""
    members: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    for group in groups:
        settings = tuple((key, value) for key, value in group.items() if key != "params")
        members[settings] += group["params"]
    return [{"params": parameters, **dict(settings)} for settings, parameters in members.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with the settings of `cfg.SOLVER`, clipping included."""
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    optimizer = torch.optim.SGD(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        foreach=True,
    )
    return maybe_add_gradient_clipping(cfg, optimizer)


def _clip_value(cfg: CfgNode) -> Callable[[nn.Parameter], None]:
    return lambda parameter: nn.utils.clip_grad_value_(parameter, cfg.CLIP_VALUE)


def _clip_norm(cfg: CfgNode) -> Callable[[nn.Parameter], Any]:
    return lambda parameter: nn.utils.clip_grad_norm_(parameter, cfg.CLIP_VALUE, cfg.NORM_TYPE)


_CLIPPERS: dict[str, Callable[[CfgNode], Callable[[nn.Parameter], Any]]] = {"value": _clip_value, "norm": _clip_norm}


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: Any) -> Any:
    """Let an optimizer clip each parameter's gradient before its steps, as `cfg.SOLVER.CLIP_GRADIENTS` says.

    Args:
        optimizer: an instance, which is changed and returned; or a class, of which a subclass is returned.

    Raises:
        ValueError: CLIP_TYPE is neither "value" nor "norm".
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if not clipping.ENABLED:
        return optimizer
    if clipping.CLIP_TYPE not in _CLIPPERS:
        raise ValueError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clipping.CLIP_TYPE!r}; allowed: {list(_CLIPPERS)}")
    if isinstance(optimizer, torch.optim.Optimizer):
        optimizer.__class__ = _clipping_class(type(optimizer), _CLIPPERS[clipping.CLIP_TYPE](clipping.clone()))
        return optimizer
    return _clipping_class(optimizer, _CLIPPERS[clipping.CLIP_TYPE](clipping.clone()))


def _clipping_class(base: type, clip: Callable[[nn.Parameter], Any]) -> type:
    def step(self: torch.optim.Optimizer, closure: Callable | None = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                clip(parameter)
        return base.step(self, closure)  # type: ignore[attr-defined]

    return type(f"{base.__name__}WithGradientClip", (base,), {"step": step})


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """The schedule `cfg.SOLVER.LR_SCHEDULER_NAME` with warm-up.

    Raises:
        ValueError: another name.
    """
    schedule = WarmupParamScheduler(
        _schedule(cfg),
        cfg.SOLVER.WARMUP_FACTOR,
        min(cfg.SOLVER.WARMUP_ITERS / cfg.SOLVER.MAX_ITER, 1.0),
        cfg.SOLVER.WARMUP_METHOD,
        cfg.SOLVER.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=cfg.SOLVER.MAX_ITER)


def _schedule(cfg: CfgNode) -> ParamScheduler:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
        if len(steps) < len(solver.STEPS):
            logging.getLogger(__name__).warning("SOLVER.STEPS beyond SOLVER.MAX_ITER are ignored")
        return MultiStepParamScheduler(
            values=[solver.GAMMA**drops for drops in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
    if solver.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR":
        return StepWithFixedGammaParamScheduler(
            base_value=1.0, gamma=solver.GAMMA, num_decays=solver.NUM_DECAYS, num_updates=solver.MAX_ITER
        )
    raise ValueError(f"Unknown LR scheduler: {solver.LR_SCHEDULER_NAME}")

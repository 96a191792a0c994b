"""Optimizer, parameter groups and gradient clipping."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from twostage.errors import UserError

# Norm layers of torch, whose weights and biases take SOLVER.WEIGHT_DECAY_NORM. A norm layer of another class (SAN's
# channel LayerNorm, for one) takes the plain weight decay, as in the published training runs.
NORM_LAYERS = (
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
# Parameters with one of these in their own name, and those of nn.Embedding, take SOLVER.WEIGHT_DECAY_EMBED.
EMBEDDINGS = ("positional_embedding", "pos_embed", "query_embed", "relative_position_bias_table")


class ParameterSetting(NamedTuple):
    """How one parameter is optimized."""

    lr: float
    weight_decay: float


def parameter_group(name: str) -> str | None:
    """Whose learning-rate multiplier the parameter `name` takes: "clip", "backbone" or None (1.0).

    A model can decide otherwise with a method of this name and signature.
    """
    parts = name.split(".")
    return next((group for group in ("backbone", "clip") if group in parts), None)


def is_bias(name: str) -> bool:
    """Whether the parameter `name` is a bias for SOLVER.WEIGHT_DECAY_BIAS: every one whose name ends so.

    A model can decide otherwise with a method of this name and signature.
    """
    return name.endswith("bias")


def parameter_settings(cfg: CfgNode, model: nn.Module) -> dict[str, ParameterSetting]:
    """Learning rate and weight decay of every trainable parameter of `model`, by name (shared ones by their first).

    SOLVER.WEIGHT_DECAY_BIAS, where given, goes before the decay of norms and embeddings for every bias (`is_bias`).
    """
    multipliers = {"backbone": cfg.SOLVER.BACKBONE_MULTIPLIER, "clip": cfg.SOLVER.CLIP_MULTIPLIER, None: 1.0}
    group_of = getattr(model, "parameter_group", parameter_group)
    counts_as_bias = getattr(model, "is_bias", is_bias)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    settings: dict[str, ParameterSetting] = {}
    for prefix, module in model.named_modules():
        for own_name, _ in module.named_parameters(recurse=False):
            name = f"{prefix}.{own_name}" if prefix else own_name
            if name not in trainable:
                continue
            decay = cfg.SOLVER.WEIGHT_DECAY
            if cfg.SOLVER.WEIGHT_DECAY_BIAS is not None and counts_as_bias(name):
                decay = cfg.SOLVER.WEIGHT_DECAY_BIAS
            elif isinstance(module, NORM_LAYERS):
                decay = cfg.SOLVER.WEIGHT_DECAY_NORM
            elif isinstance(module, nn.Embedding) or any(part in own_name for part in EMBEDDINGS):
                decay = cfg.SOLVER.WEIGHT_DECAY_EMBED
            settings[name] = ParameterSetting(cfg.SOLVER.BASE_LR * multipliers[group_of(name)], decay)
    return settings


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    """torch's parameter groups: one per pair of learning rate and weight decay, in order of first appearance."""
    parameters = dict(model.named_parameters())
    members: dict[ParameterSetting, list[nn.Parameter]] = defaultdict(list)
    for name, setting in parameter_settings(cfg, model).items():
        members[setting].append(parameters[name])
    return [{"params": group, **setting._asdict()} for setting, group in members.items()]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over `parameter_groups`, with the clipping of SOLVER.CLIP_GRADIENTS.

    Clipping happens at the beginning of `step`, so a gradient scaler has to unscale before it.

    Raises:
        UserError: nothing to train.
    """
    groups = parameter_groups(cfg, model)
    if not groups:
        raise UserError(f"{type(model).__name__} has no trainable parameters; run it with --eval-only")
    optimizer: torch.optim.Optimizer
    if cfg.SOLVER.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(
            groups, lr=cfg.SOLVER.BASE_LR, betas=tuple(cfg.SOLVER.ADAMW_BETAS), eps=cfg.SOLVER.ADAMW_EPS
        )
    else:
        optimizer = torch.optim.SGD(
            groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV
        )
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED and cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model":
        clip_full_model(optimizer, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE)
        return optimizer
    return maybe_add_gradient_clipping(cfg, optimizer)


def clip_full_model(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """From now on `optimizer.step` first scales all gradients so that their common L2 norm is at most `max_norm`."""

    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    optimizer.register_step_pre_hook(clip)

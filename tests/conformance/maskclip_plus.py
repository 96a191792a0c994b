"""Runs MaskCLIP+ as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets, load_seeded
from conformance.seeded import seeded_image, seeded_tensor, stream
from twostage.config import load_config
from twostage.data.mapper import to_tensor
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.one_stage.maskclip_plus.model import MaskClipPlus

_ROOT = Path(__file__).parents[2]
_TEXT = "decode_head.text_embeddings"


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a MaskCLIP+ case with ours."""
    cfg = load_config(
        str(_ROOT / "configs" / _config_of(case)),
        ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""],
    )
    if "deeplabv3plus" in case.meta["config"]:
        cfg.MODEL.MASKCLIP_PLUS.HEAD = "deeplabv3plus"
    cfg.MODEL.MASKCLIP_PLUS.PRETRAINED = False
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), {"weight_seed": case.meta["weight_seed"]})
    if "losses" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


# Benchmark by the number of classes, background included.
_BENCHMARKS = {20: "voc20", 21: "voc21", 59: "context59", 60: "context60", 171: "coco_stuff"}


def _config_of(case: Case) -> str:
    """Our config of an official one, such as `maskclip_plus_vit16_deeplabv2_r101-d8_480x480_4k_pascal_context_59`."""
    name = case.meta["config"]
    teacher = re.search(r"_(vit16|r50x16|r50)_", name)
    benchmark = _BENCHMARKS.get(_num_classes(case))
    if teacher is None or benchmark is None:
        raise UserError(f"the case's config {name!r} names no known teacher, or its class count no known benchmark")
    setting = "zeroshot_" if "zero" in name else ""
    clip = {"vit16": "vitb", "r50": "r50", "r50x16": "r50x16"}[teacher[1]]
    return f"maskclip_plus/{setting}{clip}_{benchmark}.yaml"


def _text(case: Case, classes: int, size: int) -> Tensor:
    return seeded_tensor(_TEXT, (classes, size), case.meta["weight_seed"])


def _num_classes(case: Case) -> int:
    """Channels of the logits, a learned background included."""
    name = next(name for name in case.names if name.startswith("logits_"))
    shape = case.arrays[name].shape if name in case.arrays else case.arrays[f"{name}__shape"]
    return int(shape[1])


@torch.no_grad()
def _check_inference(model: MaskClipPlus, case: Case) -> list[Comparison]:
    entry = case.meta["image"]
    size = (entry["height"], entry["width"])
    images = model.preprocess([{"image": to_tensor(seeded_image(*size, entry["seed"]))}])
    learned = model.background_embedding is not None
    text = _text(case, _num_classes(case) - learned, int(model.clip.visual.output_dim))
    stages = model.backbone(images.tensor)
    encoded = model.encode(images)
    prediction = model.decode(encoded, text)
    arrays: dict[str, Any] = {f"backbone{index}": stage for index, stage in enumerate(stages)}
    arrays |= {
        "decode_feat": encoded.features,
        "logits_patch": prediction.logits,
        "sem_seg": prediction.scores([size])[0][None],
        "argmax": prediction.label_maps([size])[0][::4, ::4],
    }
    return [case.compare(name, arrays[name]) for name in case.names]


def _check_training(model: MaskClipPlus, case: Case, cfg: Any) -> list[Comparison]:
    meta = case.meta
    labels = _labels(meta)
    pixels = [
        {"image": to_tensor(seeded_image(entry["height"], entry["width"], entry["seed"]))} for entry in meta["images"]
    ]
    images = model.preprocess(pixels)
    learned = model.background_embedding is not None
    text = _text(case, _num_classes(case) - learned, int(model.clip.visual.output_dim))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rows = []
    for run, wanted in meta["losses"].items():
        model.load_state_dict(state)
        model.zero_grad()
        rows += _check_step(model, case, run, wanted, images, labels, text)
    return [case.compare("gt", labels[:, None]), *rows, _check_optimizer(model, meta, cfg)]


def _check_step(
    model: MaskClipPlus, case: Case, run: str, wanted: dict[str, Any], images: Any, labels: Tensor, text: Tensor
) -> list[Comparison]:
    """One training step with the settings of `run`: losses, label maps and gradients."""
    model.key_smoothing = wanted["overrides"].get("ks_thresh", 0.0)
    model.prompt_denoising = wanted["overrides"].get("pd_thresh", 0.0)
    model.tower.with_keys = bool(model.key_smoothing)
    model.iteration.fill_(wanted["iteration"])
    encoded = model.encode(images)
    logits = model.logits(encoded.features, text)
    rows = [case.compare(f"logits_{run}", logits)] if f"logits_{run}" in case.names else []
    if wanted["overrides"].get("distill"):
        # The authors' distillation term has no gradient, so training here leaves it out; only its labels can be compared.
        return [*rows, case.compare("target_distill", torch.where(labels == -1, 255, labels)[:, None])]
    targets = model.pseudo_labels(labels, encoded.features.detach(), text, images.tensor)
    resized = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(resized, targets, ignore_index=255, reduction="sum") / targets.numel()
    loss.backward()
    accuracy = 100 * float((resized.argmax(dim=1) == targets).float().mean())
    arrays = {f"target_{run}": targets[:, None], f"clip_cos_{run}": _teacher_cosines(model, images.tensor, text)}
    rows += [case.compare(name, array) for name, array in arrays.items() if name in case.names]
    rows += [
        case.compare_number(f"loss_ce {run}", loss.item(), wanted["decode.loss_ce"]),
        case.compare_number(f"acc_seg {run}", accuracy, wanted["decode.acc_seg"], tolerance=1e-3),
    ]
    official = model.checkpoint_table().to_official(dict(model.named_parameters()))
    for name, norm in case.meta["grad_norms"][run].items():
        gradient = official[name].grad
        assert gradient is not None, f"{name} has no gradient"
        rows.append(case.compare_number(f"grad_norm {run} {name}", gradient.norm().item(), norm, tolerance=2e-3))
    return rows


@torch.no_grad()
def _teacher_cosines(model: MaskClipPlus, images: Tensor, text: Tensor) -> Tensor:
    """Cosines of the classes without labels, before refinement."""
    first = int(model.background_embedding is not None)
    rows = text[[c - first for c in model.hidden_classes]] if model.hidden_classes else text
    patches = model.tower(model.pad_for_teacher(images)).patches
    return torch.einsum("cd,bdhw->bchw", rows, F.normalize(patches, dim=1))


def _labels(meta: dict[str, Any]) -> Tensor:
    """The case's label maps `[B, H, W]`: blocks of 32 pixels, -1 for hidden and 255 for ignored ones."""
    values = np.asarray(meta["gt"]["labels"])
    maps = []
    for entry, seed in zip(meta["images"], meta["gt"]["seeds"], strict=True):
        height, width = entry["height"], entry["width"]
        rng = stream(seed, f"gt:{height}x{width}")
        blocks = rng.integers(0, len(values), (-(-height // 32), -(-width // 32)))
        maps.append(np.kron(values[blocks], np.ones((32, 32), np.int64))[:height, :width])
    return torch.from_numpy(np.stack(maps)).long()


def _check_optimizer(model: MaskClipPlus, meta: dict[str, Any], cfg: Any) -> Comparison:
    """Trainable parameters under official names, with learning rate multiplier and weight decay."""
    rule = meta["trainable"]
    decay = float(re.search(r"weight decay ([\d.e-]+)", rule["rule"])[1])  # type: ignore[index]
    ours = {}
    for name, setting in parameter_settings(cfg, model).items():
        official = next(iter(model.checkpoint_table().to_official({name: torch.zeros(1, 1)})))
        ours[official] = (setting.lr / cfg.SOLVER.BASE_LR, setting.weight_decay)
    return compare_sets("trainable parameters", ours, dict.fromkeys(rule["names"], (1.0, decay)))

"""Runs MaskCLIP+ as a reference case says and compares what the case stores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_names, compare_number, compare_sets
from conformance.formulas import found
from conformance.inputs import as_stored, picture, size_of
from conformance.optimizer import check_gradients, trainable_table
from conformance.recording import Arrays
from conformance.seeded import seeded_tensor, stream
from conformance.settings import case_config
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.systems.one_stage.maskclip_plus.model import MaskClipPlus

SYSTEMS = ("MaskCLIP+",)
_TEXT = "decode_head.text_embeddings"
# Benchmark by the number of classes, background included.
_BENCHMARKS = {20: "voc20", 21: "voc21", 59: "context59", 60: "context60", 171: "coco_stuff"}
_TEACHERS = {"vit16": "vitb", "r50": "r50", "r50x16": "r50x16"}


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a MaskCLIP+ case with ours."""
    cfg = _config(case)
    model = seeded_model(cfg, case)
    case.told("fed", "integer_buffers")
    if "losses" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    """Our config of an official one, such as `maskclip_plus_vit16_deeplabv2_r101-d8_480x480_4k_pascal_context_59`."""
    name = case.meta["config"]
    teacher = re.search(r"_(vit16|r50x16|r50)_", name)
    benchmark = _BENCHMARKS.get(_num_classes(case))
    if teacher is None or benchmark is None:
        raise UserError(f"the case's config {name!r} names no known teacher, or its class count no known benchmark")
    setting = "zeroshot_" if "zero" in name else ""
    head = "deeplabv3plus" if "deeplabv3plus" in name else "deeplabv2"
    return case_config(
        f"maskclip_plus/{setting}{_TEACHERS[teacher[1]]}_{benchmark}",
        ["MODEL.MASKCLIP_PLUS.HEAD", head, "MODEL.MASKCLIP_PLUS.PRETRAINED", "False"],
    )


def _text(case: Case, classes: int, size: int) -> Tensor:
    return seeded_tensor(_TEXT, (classes, size), case.meta["weight_seed"])


def _num_classes(case: Case) -> int:
    """Channels of the logits, a learned background included."""
    name = next((name for name in case.names if name.startswith(("logits_", "sem_seg"))), None)
    if name is None:
        raise UserError(f"case '{case.path}' holds no scores, whose channels tell the number of classes")
    return case.shape(name)[1]


@torch.no_grad()
def _check_inference(model: MaskClipPlus, case: Case) -> list[Comparison]:
    size = size_of(case.meta["image"])
    images = model.preprocess([{"image": to_tensor(picture(case.meta["image"]))}])
    learned = model.background_embedding is not None
    text = _text(case, _num_classes(case) - learned, int(model.clip.visual.output_dim))
    stages = model.backbone(images.tensor)
    encoded = model.encode(images)
    prediction = model.decode(encoded, text)
    arrays: Arrays = {f"backbone{index}": stage for index, stage in enumerate(stages)}
    arrays |= {
        "decode_feat": encoded.features,
        "logits_patch": prediction.logits,
        "sem_seg": prediction.scores([size])[0][None],
        "argmax": as_stored(case, "argmax", prediction.label_maps([size])[0]),
    }
    return case.compare_all(arrays)


def _check_training(model: MaskClipPlus, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    labels = _labels(meta)
    images = model.preprocess([{"image": to_tensor(picture(entry))} for entry in meta["images"]])
    learned = model.background_embedding is not None
    text = _text(case, _num_classes(case) - learned, int(model.clip.visual.output_dim))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    rows = case.compare_all({"gt": labels[:, None]})
    for run, wanted in meta["losses"].items():
        model.load_state_dict(state)
        model.zero_grad()
        rows += _check_step(model, case, run, wanted, images, labels, text)
    return [*rows, *_check_optimizer(model, case, cfg)]


def _check_step(
    model: MaskClipPlus, case: Case, run: str, wanted: Mapping[str, Any], images: Any, labels: Tensor, text: Tensor
) -> list[Comparison]:
    """One training step with the settings of `run`: losses, label maps and gradients."""
    settings = wanted["overrides"]
    if unknown := sorted(set(settings) - {"ks_thresh", "pd_thresh", "distill"}):
        raise UserError(f"the case's run {run!r} sets {unknown[0]!r}, which is not known here")
    model.key_smoothing = settings.get("ks_thresh", 0.0)
    model.prompt_denoising = settings.get("pd_thresh", 0.0)
    model.tower.with_keys = bool(model.key_smoothing)
    model.iteration.fill_(wanted["iteration"])
    encoded = model.encode(images)
    logits = model.logits(encoded.features, text)
    rows = case.compare_all({f"logits_{run}": logits})
    if settings.get("distill"):
        # The authors' distillation term has no gradient, so training here leaves it out; only its labels can be compared.
        case.skip(f"losses and gradients of run {run!r}: distillation has no gradient and is not part of training here")
        return [*rows, *case.compare_all({f"target_{run}": torch.where(labels == -1, 255, labels)[:, None]})]
    targets = model.pseudo_labels(labels, encoded.features.detach(), text, images.tensor)
    resized = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = F.cross_entropy(resized, targets, ignore_index=255, reduction="sum") / targets.numel()
    loss.backward()
    accuracy = 100 * float((resized.argmax(dim=1) == targets).float().mean())
    cosines = _teacher_cosines(model, images.tensor, text)
    return [
        *rows,
        *case.compare_all({f"target_{run}": targets[:, None], f"clip_cos_{run}": cosines}),
        compare_number(f"loss_ce {run}", loss.item(), wanted["decode.loss_ce"]),
        compare_number(f"acc_seg {run}", accuracy, wanted["decode.acc_seg"], tolerance=1e-3),
        *check_gradients(model, case, norms=case.meta.get("grad_norms", {}).get(run, {}), run=f"{run} "),
    ]


@torch.no_grad()
def _teacher_cosines(model: MaskClipPlus, images: Tensor, text: Tensor) -> Tensor:
    """Cosines of the classes without labels, before refinement."""
    first = int(model.background_embedding is not None)
    rows = text[[c - first for c in model.hidden_classes]] if model.hidden_classes else text
    patches = model.tower(model.pad_for_teacher(images)).patches
    return torch.einsum("cd,bdhw->bchw", rows, F.normalize(patches, dim=1))


def _labels(meta: Any) -> Tensor:
    """The case's label maps `[B, H, W]`: blocks of 32 pixels or so, -1 for hidden and 255 for ignored ones."""
    truth = meta["gt"]
    values, side = np.asarray(truth["labels"]), int(found(r"(\d+)x\1 blocks", truth["rule"], "the labels' rule")[1])
    maps = []
    for entry, seed in zip(meta["images"], truth["seeds"], strict=True):
        height, width = size_of(entry)
        rng = stream(seed, f"gt:{height}x{width}")
        blocks = rng.integers(0, len(values), (-(-height // side), -(-width // side)))
        maps.append(np.kron(values[blocks], np.ones((side, side), np.int64))[:height, :width])
    return torch.from_numpy(np.stack(maps)).long()


def _check_optimizer(model: MaskClipPlus, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters under official names, all with the same multiplier and weight decay."""
    rule = case.meta.get("trainable")
    rule = case.beside(rule) if isinstance(rule, str) else rule
    if rule is None:
        return case.skip("the trainable parameters, which the case does not list")
    decay = float(found(r"weight decay ([\d.e-]+)", rule["rule"], "the optimizer's rule")[1])
    ours = trainable_table(model, model.checkpoint_table(), cfg)
    rows = [compare_sets("trainable parameters", ours, dict.fromkeys(rule["names"], (1.0, decay)))]
    frozen = tuple(rule.get("frozen_prefixes", ()))
    if frozen:
        rows.append(compare_names("trainable though frozen", [n for n in ours if n.startswith(frozen)], []))
    return rows

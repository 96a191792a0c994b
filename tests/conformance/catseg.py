"""Runs CAT-Seg as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets, load_seeded
from conformance.catseg_recording import Recording
from conformance.seeded import seeded_image, stream
from twostage.clip.templates import TEMPLATES
from twostage.config import load_config
from twostage.engine.optimizer import build_optimizer, parameter_settings
from twostage.systems.building import build_model
from twostage.systems.one_stage.catseg.model import CATSeg
from twostage.systems.one_stage.catseg.views import REJECTED, ClassScores
from twostage.vocabulary import Vocabulary

_CONFIGS = {
    "vitb_384.yaml": "catseg_vitb.yaml",
    "vitl_336.yaml": "catseg_vitl.yaml",
    "vitb_r101_384.yaml": "catseg_v1_vitb_r101.yaml",
    "vitl_swinb_384.yaml": "catseg_v1_vitl_swinb.yaml",
}
# The figures of a training step that depend on sums over many small gradients.
_GRADIENT_TOLERANCE = 2e-3
# A bias of all keys adds the same to every score of a query, which softmax takes off again: what is stored as its gradient is
# rounding (1e-11), so that its norm is compared at the size of all gradients together.
_NO_GRADIENT = ".attn.k.bias"


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a CAT-Seg case with ours."""
    if "v2" in case.meta:
        return _check_prompts(case.meta)
    cfg = published_config(case.meta)
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), case.meta)
    if "loss" in case.meta:
        return _check_training(model.train(), case, cfg) + check_optimizer(model, case.meta, cfg)
    if "trainable" in case.meta:
        return check_optimizer(model, case.meta, cfg)
    return _check_inference(model.eval(), case)


def published_config(meta: dict[str, Any]) -> CfgNode:
    """Our config for the official one that a case names, with the case's settings; on the CPU, without weights."""
    root = Path(__file__).parents[2]
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]
    cfg = load_config(str(root / "configs" / _CONFIGS[meta["config"]]), opts)
    if "effective" in meta:
        cfg.TEST.SLIDING.ENABLED = meta["effective"]["sliding_window"]
        cfg.MODEL.CATSEG.TEST_POOLING = meta["effective"]["pooling"][0]
        cfg.MODEL.CATSEG.SIZE_DIVISIBILITY = meta["effective"]["size_divisibility"]
    return cfg


def _check_inference(model: CATSeg, case: Case) -> list[Comparison]:
    meta = case.meta
    size = (meta["output_height"], meta["output_width"])
    vocabulary = Vocabulary.published(meta["class_names"])
    recorded_views = _recorded_views(case)
    with torch.no_grad(), Recording(model, recorded_views) as recording:
        images = model.preprocess([{"image": _image(meta)}])
        text = model.embed_vocabulary(vocabulary)
        encoded = model.encode(images)
        scores = model.class_scores(encoded, text)
        prediction = model.views.join(scores, encoded.image_sizes)
        sem_seg = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
    order = case.arrays.get("topk_classes")
    rows, places = [], None
    if order is not None and scores.kept is not None:
        wanted = torch.as_tensor(order)
        kept = scores.kept[: len(wanted)]
        rows.append(_same(name="kept classes", ours=kept, wanted=wanted.sort(dim=1).values))
        # Where each class of the stored order stands in ours.
        places = torch.searchsorted(kept.contiguous(), wanted).clamp(max=kept.shape[1] - 1)
    arrays = recording.arrays(model, places)
    arrays |= {
        "text_features": text,
        "logits": _all_classes(scores)[:recorded_views],
        "logits_all_views": _all_classes(scores),
        "sem_seg": sem_seg,
        "topk_classes": order,
    }
    grid = (scores.logits.shape[-2], scores.logits.shape[-1])
    canvas = (640, 640) if meta["effective"]["sliding_window"] else grid
    if "prob_before_postprocess" in case.names:
        arrays["prob_before_postprocess"] = prediction.scores([canvas])[0]
    arrays["topk_margin"] = recording.margin(model.class_slots)
    for name in case.names:
        if name != "argmax":
            # A margin is the difference of two cosines and rounds as they do: to 1e-6, however small it is.
            rows.append(case.compare(name, arrays[name], scale=1e-2 if name == "topk_margin" else None))
    rows.append(_compare_labels("argmax", case.arrays["argmax"], sem_seg, sem_seg.argmax(dim=0)))
    rows.append(_compare_labels("label map", case.arrays["argmax"], sem_seg, labels))
    return rows


def _recorded_views(case: Case) -> int:
    """How many views the stored arrays of the aggregator hold."""
    name = "cost_volume_all"
    return int(case.arrays[name].shape[0] if name in case.arrays else case.arrays[f"{name}__shape"][0])


def _image(meta: dict[str, Any]) -> Tensor:
    image = seeded_image(meta["image"]["height"], meta["image"]["width"], meta["image"]["seed"])
    if "ResizeShortestEdge" in meta["feeding"]:
        image = np.array(T.ResizeShortestEdge([640, 640], 2560).get_transform(image).apply_image(image))
    assert image.shape[:2] == (meta["fed_height"], meta["fed_width"])
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _all_classes(scores: ClassScores) -> Tensor:
    """Logits `[V, T, h, w]` with the published value for classes that were not aggregated."""
    if scores.kept is None:
        return scores.logits
    full = scores.logits.new_full((len(scores.logits), scores.num_classes, *scores.logits.shape[2:]), REJECTED)
    return full.scatter(1, scores.kept[..., None, None].expand_as(scores.logits), scores.logits)


def _compare_labels(name: str, wanted: np.ndarray, scores: Tensor, labels: Tensor) -> Comparison:
    """Label maps, every fourth pixel; near ties between classes (the cases name them) may go either way."""
    target = torch.as_tensor(wanted).long()
    ours, sampled = labels[::4, ::4], scores[:, ::4, ::4]
    gap = sampled.gather(0, ours[None])[0] - sampled.gather(0, target[None])[0]
    tie = (ours != target) & (gap.abs() <= 1e-5 * scores.abs().max())
    equal = float(((ours == target) | tie).float().mean())
    note = f"{100 * equal:.3f} % equal, {int(tie.sum())} near ties"
    return Comparison(
        name=name,
        shape=tuple(target.shape),
        difference=float((ours != target).sum()),
        relative=1 - equal,
        passed=equal >= 0.999,
        note=note,
    )


def _same(*, name: str, ours: Tensor, wanted: Tensor) -> Comparison:
    wrong = float((ours != wanted).sum()) if ours.shape == wanted.shape else float("nan")
    return Comparison(name=name, shape=tuple(wanted.shape), difference=wrong, relative=wrong, passed=wrong == 0)


def _check_training(model: CATSeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    batch, arrays = _training_batch(meta)
    optimizer = build_optimizer(cfg, model)
    with Recording(model, len(batch)) as recording:
        losses = model(batch)
        losses["loss_sem_seg"].backward()
    arrays |= recording.arrays(model, None)
    arrays["text_features"] = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    official: dict[str, Any] = model.checkpoint_table().to_official(dict(model.named_parameters()))
    trained = {name: value for name, value in official.items() if value.requires_grad}
    arrays |= {f"grad:{name}": value.grad for name, value in trained.items()}
    rows = [case.compare(name, arrays[name], _GRADIENT_TOLERANCE if "grad:" in name else 1e-4) for name in case.names]
    rows.append(case.compare_number("loss_sem_seg", losses["loss_sem_seg"].item(), meta["loss"]["loss_sem_seg"]))
    norms = {name: value.grad.norm() for name, value in trained.items()}
    total = torch.stack(list(norms.values())).norm().item()
    for name, wanted in meta["grad_norms"].items():
        scale = total if name.endswith(_NO_GRADIENT) else None
        rows.append(
            case.compare_number(f"grad_norm {name}", norms[name].item(), wanted, _GRADIENT_TOLERANCE, scale=scale)
        )
    rows.append(case.compare_number("total_grad_norm", total, meta["total_grad_norm_before_clipping"]))
    zero = {name: True for name, norm in norms.items() if norm == 0}
    rows.append(compare_sets("zero gradients", zero, dict.fromkeys(meta["params_with_zero_grad"], True)))
    before = {name: value.detach().clone() for name, value in trained.items()}
    optimizer.step()
    for name, wanted in meta["update_norm_after_one_step"].items():
        moved = (trained[name].detach() - before[name]).norm().item()
        # Clipped gradients are as small as AdamW's eps, so that the update depends on their last digits.
        rows.append(case.compare_number(f"update_norm {name}", moved, wanted, tolerance=2e-2))
    with torch.no_grad():
        after = model(batch)["loss_sem_seg"].item()
    rows.append(case.compare_number("loss after one step", after, meta["loss_after_one_optimizer_step"], 1e-2))
    return rows


def _training_batch(meta: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Inputs of a training case, and its labels under the names of the stored arrays."""
    batch, arrays = [], {}
    for index, entry in enumerate(meta["images"]):
        height, width, seed = entry["height"], entry["width"], entry["seed"]
        cells = stream(seed, f"gt:{height}x{width}").integers(0, len(meta["class_names"]) + 1, size=(16, 16))
        cells[cells >= len(meta["class_names"])] = 255
        labels = np.kron(cells, np.ones((height // 16, width // 16), np.int64))
        image = torch.as_tensor(seeded_image(height, width, seed).transpose(2, 0, 1).copy())
        batch.append({"image": image, "sem_seg": torch.as_tensor(labels), "vocabulary": meta["class_names"]})
        arrays[f"gt{index}"] = labels
    return batch, arrays


def check_optimizer(model: CATSeg, meta: dict[str, Any], cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with learning-rate multiplier and weight decay, under official names; their number."""
    wanted = {n: (round(e["lr_multiplier"], 9), e["weight_decay"]) for n, e in meta["trainable"].items()}
    settings = parameter_settings(cfg, model)
    # The table renames dictionaries; one entry at a time tells which name belongs to which.
    renamed = {n: next(iter(model.checkpoint_table().to_official({n: torch.zeros(())}))) for n in settings}
    ours = {renamed[n]: (round(s.lr / cfg.SOLVER.BASE_LR, 9), s.weight_decay) for n, s in settings.items()}
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    counts = {"tensors": len(sizes), "trained": sum(sizes), "all": sum(p.numel() for p in model.parameters())}
    published = {"tensors": "num_trainable_tensors", "trained": "num_trainable_params", "all": "num_params"}
    return [
        compare_sets("trainable parameters", ours, wanted),
        compare_sets("parameter counts", counts, {name: meta[key] for name, key in published.items()}),
    ]


def _check_prompts(meta: dict[str, Any]) -> list[Comparison]:
    """Prompts and token ids of class names, through the text embedder of the published configs."""
    rows = []
    model = build_model(published_config({"config": "vitb_384.yaml"}))
    for entry in meta["v2"]:
        ((name,),) = model.text.names(Vocabulary.from_words([entry["name"]]))
        prompts = model.text.prompts(name)
        ours = {"prompts": prompts, "tokens": model.text.tokenize(prompts)[0].tolist()}
        # Names are stripped here; blanks at their end make no tokens.
        wanted = {"prompts": [entry["v2_prompt"].replace("  ", " ")], "tokens": entry["v2_tokens"]}
        rows.append(compare_sets(f"v2 {entry['name']!r}", ours, wanted))
    templates = TEMPLATES["imagenet"]
    for entry in meta["v1"]:
        (names,) = Vocabulary.from_words([entry["name"]]).synonyms(split=True)
        prompts = [template.format(name) for template in templates for name in names]
        first, last = len(entry["first"]), len(entry["last"])
        ours = {"num_prompts": len(prompts), "first": prompts[:first], "last": prompts[-last:]}
        rows.append(compare_sets(f"v1 {entry['name']!r}", ours, {key: entry[key] for key in ours}))
    return rows

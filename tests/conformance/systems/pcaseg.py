"""Runs PCA-Seg as a reference case says and compares what the case stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import (
    Comparison,
    compare_equal,
    compare_labels,
    compare_number,
)
from conformance.dense_training import check_step, training_batch
from conformance.formulas import evaluate
from conformance.inputs import as_stored, picture, shortest_edge
from conformance.recording import Arrays
from conformance.seeded import seeded_state, seeded_tensor
from conformance.settings import case_config
from conformance.systems.catseg import compare_kept, published_config
from conformance.systems.pcaseg_recording import ParallelRecording, recording_layer
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.engine.optimizer import build_optimizer
from twostage.systems.one_stage.cost_aggregation.kept_classes import among_all
from twostage.systems.one_stage.pcaseg.layer import Orthogonality
from twostage.systems.one_stage.pcaseg.model import PCASeg, build_parallel_layer
from twostage.systems.one_stage.pcaseg.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

SYSTEMS = ("PCA-Seg", "pcaseg")
_CONFIGS = {
    "vitb_384": "pcaseg_vitb",
    "vitl_336": "pcaseg_vitl",
    "eva_vitb_384": "pcaseg_eva_vitb",
    "eva_vitl_336": "pcaseg_eva_vitl",
}
# Gradients that are nearly zero are compared by their difference: their relative error is rounding.
_TINY_GRADIENT = 1e-5
_UNIT_CHANNELS = 128
_SUM = ".res_scale"


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a PCA-Seg case with ours."""
    case.told("eval_mode", "truncation_margin", "fixed_here", "text_encoding_against_77_tokens_relative")
    if "inputs" in case.meta:
        return _check_layer(case)
    cfg = published_config(case, _CONFIGS)
    model = seeded_model(cfg, case)
    if "losses" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _check_inference(model: PCASeg, case: Case) -> list[Comparison]:
    meta = case.meta
    pixels = shortest_edge(picture(meta["image"]), meta["feeding"])
    size = (meta["output_height"], meta["output_width"])
    views = case.shape("cost_volume_all")[0]
    with torch.no_grad(), ParallelRecording(model, views) as recording:
        text = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
        encoded = model.encode(model.preprocess([{"image": to_tensor(pixels)}]))
        scores = model.class_scores(encoded, text)
        prediction = model.views.join(scores, encoded.image_sizes)
        sem_seg, labels = prediction.scores([size])[0], prediction.label_maps([size])[0]
    rows, places = compare_kept(case, scores.kept)
    rows.append(compare_equal("num_classes", len(text), meta["num_classes"]))
    logits = scores.logits if scores.kept is None else among_all(scores.logits, scores.kept, scores.num_classes)
    arrays = recording.arrays(model, places)
    arrays |= {"text_features": text, "logits": logits[:views], "sem_seg": sem_seg}
    for name in ("argmax", "argmax_sub4"):
        arrays[name] = as_stored(case, name, sem_seg.argmax(dim=0))
    # The label map that evaluation uses must say the same as the full scores.
    return [*rows, *case.compare_all(arrays), compare_labels("label_map", labels, sem_seg.argmax(dim=0))]


def _check_training(model: PCASeg, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta, batch = case.meta, training_batch(case)
    optimizer = build_optimizer(cfg, model)
    with ParallelRecording(model, len(batch)) as recording:
        losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    with torch.no_grad():
        arrays = recording.arrays(model, None)
        arrays["text_features"] = model.embed_vocabulary(Vocabulary.published(meta["class_names"]))
    rows = [compare_equal("num_classes", len(arrays["text_features"]), meta["num_classes"])]
    official = model.checkpoint_table().to_official(model.state_dict())
    arrays |= {f"after:{name}": value.clone() for name, value in official.items()}
    step = check_step(
        model, case, cfg, batch, optimizer, losses, arrays, tiny=_TINY_GRADIENT, scales=_scales(meta["gradient_norms"])
    )
    return [*rows, *step]


def _scales(norms: Mapping[str, float]) -> dict[str, float]:
    """The gradient of a block's residual scale is one sum over all pixels and channels, which cancels: in `public-b-train` to
    a 265th of its terms in one block, to a 30th in the others. So all are compared relative to the greatest of them."""
    of_blocks = {name: norm for name, norm in norms.items() if name.endswith(_SUM)}
    return dict.fromkeys(of_blocks, max(of_blocks.values(), default=0.0))


def _check_layer(case: Case) -> list[Comparison]:
    """One layer alone, in evaluation, then in training."""
    meta = case.meta
    case.told("what", "names", "B", "T", "orthogonality_loss_meaning", "mean_cosine")
    inputs = {name: _drawn(text, meta["weight_seed"]) for name, text in meta["inputs"].items() if name != "note"}
    pooling = str(meta["pooling"][0])
    cfg = case_config("pcaseg_vitb", ["MODEL.CATSEG.POOLING", pooling, "MODEL.CATSEG.TEST_POOLING", pooling])
    losses = Orthogonality(weight=1.0)
    layer = build_parallel_layer(cfg, _UNIT_CHANNELS, losses)
    prefix = _load(layer, case)
    arrays = Arrays()
    with torch.no_grad():
        for mode in ("eval", "train"):
            layer.train(mode == "train")
            _run(layer, inputs, arrays, f"{mode}_block_")
    official = checkpoint_table(eva=False).to_official(_named(layer))
    arrays |= {f"after:{name.removeprefix(prefix)}": value for name, value in official.items()}
    rows = case.compare_all(arrays)
    (loss,) = losses.take().values()
    return [*rows, compare_number("orthogonality_loss", loss.item(), meta["orthogonality_loss"])]


def _run(layer: Any, inputs: dict[str, Tensor], arrays: Arrays, prefix: str) -> None:
    kept: Arrays = {}
    with recording_layer(layer, kept.__setitem__):
        layer([inputs["x"].transpose(1, 2)], inputs["appearance_guidance"], [inputs["text_guidance"]])
    for name, value in kept.items():
        whole = name.startswith(("spatial_proj", "class_proj", "gate", "expert", "residual"))
        arrays[prefix + name] = value.flatten(0, 1) if whole else value.transpose(1, 2)


def _named(layer: Any) -> dict[str, Tensor]:
    return {f"aggregator.layers.0.{name}": value for name, value in layer.state_dict().items()}


def _load(layer: Any, case: Case) -> str:
    """Seeded weights for `layer`; what the official names of its tensors begin with."""
    table, prefix = checkpoint_table(eva=False), "sem_seg_head.predictor.transformer.layers.0."
    gains = case.meta.get("weights", {}).get("weight_gains", ())
    official = seeded_state(table.to_official(_named(layer)), seed=case.meta["weight_seed"], gains=gains)
    case.told("constant_buffers")
    ours = table.to_ours(official, source="seeded weights")
    layer.load_state_dict({name.removeprefix("aggregator.layers.0."): value for name, value in ours.items()})
    return prefix


def _drawn(formula: str, seed: int) -> Tensor:
    """`relu(N('text',(2,5,128)))` and the like, N of unit variance."""

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = seeded_tensor(name, shape, seed)
        return tensor * float(torch.tensor(shape[1:]).prod()) ** 0.5

    functions: dict[str, Any] = {"N": normal, "relu": F.relu}
    return evaluate(formula, **functions)

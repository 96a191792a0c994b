"""Runs SED as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets, load_seeded
from conformance.seeded import seeded_image, seeded_tensor
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.inference.early_rejection import EarlyRejection
from twostage.systems.building import build_model
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.sed.build import build_decoder
from twostage.systems.one_stage.sed.decoder import ImageFeatures, SEDDecoder
from twostage.systems.one_stage.sed.model import SED
from twostage.systems.one_stage.sed.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

_CONFIGS = {"convnextB_768.yaml": "sed_convnextb", "convnextL_768.yaml": "sed_convnextl"}
# Official config key -> ours.
_KEYS = {
    "MODEL.SEM_SEG_HEAD.KERNEL_SIZE": "MODEL.SED.KERNEL_SIZES",
    "MODEL.SEM_SEG_HEAD.DECODER_DIMS": "MODEL.SED.DECODER_CHANNELS",
    "MODEL.SEM_SEG_HEAD.HIDDEN_DIMS": "MODEL.SED.HIDDEN_CHANNELS",
    "MODEL.SEM_SEG_HEAD.NUM_HEADS": "MODEL.SED.CLASS_HEADS",
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": "MODEL.SED.SIZE_DIVISIBILITY",
    "TEST.FAST_INFERENCE": "TEST.EARLY_REJECTION.ENABLED",
    "TEST.TOPK": "TEST.EARLY_REJECTION.TOP_K",
}
_DECODER = "sem_seg_head.predictor.transformer."
# Of ConvNeXt-B, whose decoder the cases without a CLIP take.
_BACKBONE_WIDTHS = (128, 256, 512, 1024)
# Gradients that are nearly zero are compared by their difference: their relative error is rounding.
_TINY_GRADIENT = 1e-5

Recorded = dict[str, list[Tensor]]


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SED case with ours."""
    cfg = _config(case.meta)
    if "inputs" in case.meta:
        return _check_decoder(case, cfg)
    model = build_model(cfg)
    load_seeded(model, checkpoint_table(), case.meta)
    if "losses" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(meta: dict[str, Any]) -> CfgNode:
    name = _CONFIGS[meta.get("config_file", "convnextB_768.yaml")]
    root = Path(__file__).parents[2]
    cfg = load_config(str(root / "configs" / f"{name}.yaml"), ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""])
    # Every tensor comes from the seed, so no pretrained weights are read.
    cfg.MODEL.CLIP.PRETRAINED = ""
    official = meta.get("config", {})
    for theirs, ours in _KEYS.items():
        if theirs in official:
            cfg.merge_from_list([ours, official[theirs]])
    if "MODEL.SEM_SEG_HEAD.POOLING_SIZES" in official:
        side = official["MODEL.SEM_SEG_HEAD.POOLING_SIZES"][0]
        cfg.MODEL.SED.TRAIN_POOLING = cfg.MODEL.SED.TEST_POOLING = side
    if "clip_resolution" in official:
        cfg.MODEL.SED.RESOLUTION = official["clip_resolution"][0]
    return cfg


def _check_inference(model: SED, case: Case) -> list[Comparison]:
    meta = case.meta["image"]
    pixels = seeded_image(meta["height"], meta["width"], meta["seed"])
    contrast = re.search(r"img // (\d+) \+ (\d+)", meta["fed"])
    if contrast:
        pixels = pixels // int(contrast[1]) + int(contrast[2])
    size = (meta["output_height"], meta["output_width"])
    batch = [{"image": torch.as_tensor(pixels.transpose(2, 0, 1).copy()), "height": size[0], "width": size[1]}]
    with torch.inference_mode():
        text = model.text(Vocabulary.published(case.meta["class_names"]))
        with _recording(model) as recorded:
            encoded = model.encode(model.preprocess(batch))
            prediction = model.decode(encoded, text)
        arrays = _arrays(model, encoded.features, text, recorded)
        if model.rejection is None:
            x = [arrays["cost_embed"], arrays["dec1_out"], arrays["dec2_out"]]
            arrays |= {f"aux_head{i}": model.decoder.heads[i](x[i]) for i in range(3)}
        scores = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
    kept = prediction.kept[0] if prediction.kept is not None else torch.arange(len(text))
    arrays |= {"sem_seg": scores, "argmax_sub4": scores.argmax(dim=0)[::4, ::4], "selected_final": kept}
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # The label map that evaluation uses must say the same as the full scores.
    same = float((labels[::4, ::4] == arrays["argmax_sub4"]).float().mean())
    rows.append(
        Comparison(
            name="label_map", shape=tuple(labels.shape), difference=1 - same, relative=1 - same, passed=same >= 0.9999
        )
    )
    return rows


def _arrays(model: SED, features: ImageFeatures, text: Tensor, recorded: Recorded) -> dict[str, Tensor]:
    """Intermediates under the names of the cases, from what was recorded in one pass and from the decoder's own parts."""
    decoder = model.decoder
    cost = cost_map(features.embeddings, text)
    arrays = {
        name: torch.cat(parts, dim=int(name.startswith(("dec", "aux", "head")))) for name, parts in recorded.items()
    }
    for name, array in arrays.items():
        if re.fullmatch(r"dec\d_attn", name):
            arrays[name] = array.transpose(1, 2)
        elif name.startswith(("dec", "aux", "head")):
            # The cases fold classes into the batch.
            arrays[name] = array.flatten(0, 1)
    arrays |= {f"guid{i}": guidance for i, guidance in enumerate(features.guidance)}
    arrays |= {f"corr_guid{i}": decoder.cost_guidance(cost, i).flatten(0, 1) for i in range(len(decoder.stages))}
    return arrays | {
        "text_features": text,
        "vis_clip_vis_dense": features.embeddings,
        "cost_map": cost.transpose(1, 2),
        "cost_embed": decoder.embed_cost(cost).flatten(0, 1),
    }


@contextlib.contextmanager
def _recording(model: SED) -> Iterator[Recorded]:
    """Keep what the parts put out during a pass, block by block, under the names of the cases."""
    recorded: Recorded = defaultdict(list)
    trunk, decoder = model.clip.visual.trunk, model.decoder
    hooks = [
        trunk.stem.register_forward_pre_hook(lambda _m, args: recorded["clip_input"].append(args[0])),
        _keep(trunk.stem, recorded["vis_stem"]),
    ]
    hooks += [_keep(stage, recorded[f"vis_res{i + 2}"]) for i, stage in enumerate(trunk.stages)]
    with _recording_decoder(decoder, recorded):
        yield recorded
    for hook in hooks:
        hook.remove()
    for name in [name for name, parts in recorded.items() if not parts]:
        del recorded[name]


@contextlib.contextmanager
def _recording_decoder(decoder: SEDDecoder, recorded: Recorded) -> Iterator[None]:
    """`_recording` for the decoder's parts and for the classes that survive each step."""
    hooks = []
    stages: Any = decoder.stages
    for number, stage in enumerate(stages, start=1):
        hooks += [
            _keep(stage.spatial, recorded[f"dec{number}_cnext"]),
            _keep(stage.fusion, recorded[f"dec{number}_out"]),
            _keep(
                stage.fusion, recorded[f"dec{number}_up"], unfold=lambda _o, args, f=stage.fusion: f.upsample(args[0])
            ),
            stage.fusion.register_forward_pre_hook(
                lambda _m, args, parts=recorded[f"dec{number}_attn"]: parts.append(args[0])
            ),
        ]
    head, kept, early = decoder.head, EarlyRejection.kept, decoder.early_logits

    def record_head(index: int, x: Tensor) -> Tensor:
        out = head(index, x)
        recorded["head" if index == len(decoder.stages) else f"aux_head{index}"].append(out[:, :, None])
        return out

    def record_early(*args: Any) -> Iterator[Tensor]:
        for block in early(*args):
            recorded["aux_head0"].append(block[None, :, None])
            yield block

    def record_kept(self: EarlyRejection, blocks: Any) -> Tensor:
        out = kept(self, blocks)
        recorded[f"selected{sum(name.startswith('selected') for name in recorded)}"].append(out)
        return out

    with (
        mock.patch.object(decoder, "head", record_head),
        mock.patch.object(decoder, "early_logits", record_early),
        mock.patch.object(EarlyRejection, "kept", record_kept),
    ):
        yield
    for hook in hooks:
        hook.remove()


def _keep(module: Any, parts: list[Tensor], unfold: Any = None) -> Any:
    """Hook that appends a module's output to `parts`."""

    def hook(_module: Any, args: Any, out: Tensor) -> None:
        parts.append(out if unfold is None else unfold(out, args))

    return module.register_forward_hook(hook)


def _check_training(model: SED, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    labels = _labels(meta)
    batch = []
    for index, seed in enumerate(meta["images"]["seeds"]):
        pixels = seeded_image(meta["images"]["height"], meta["images"]["width"], seed)
        batch.append({"image": torch.as_tensor(pixels.transpose(2, 0, 1).copy()), "sem_seg": labels[index]})
    text = model.text(Vocabulary.published(meta["class_names"]))
    with _recording(model) as recorded:
        images = model.preprocess(batch)
        encoded = model.encode(images)
        losses = model.losses(encoded, text, batch, images)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    with torch.no_grad():
        arrays = _arrays(model, encoded.features, text, recorded) | {"gt": labels}
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # Official order: the final head first, then the early ones.
    for (name, wanted), ours in zip(meta["losses"].items(), losses.values(), strict=True):
        rows.append(case.compare_number(name, ours.item(), wanted))
    rows.append(case.compare_number("total", total.item(), meta["total"]))
    return rows + _check_gradients(model, case) + [_check_optimizer(model, meta, cfg)]


def _labels(meta: dict[str, Any]) -> Tensor:
    """Label maps int64 `[B, H, W]` from the case's formula."""
    pattern = r"\((\d+)\*\(y//(\d+)\) \+ (\d+)\*\(x//(\d+)\) \+ b\) mod (\d+), where (\d+) becomes (\d+)"
    found = re.search(pattern, meta["gt"])
    assert found is not None, meta["gt"]
    a, step_y, b, step_x, modulus, hole, ignored = map(int, found.groups())
    image, y, x = np.ogrid[: len(meta["images"]["seeds"]), : meta["images"]["height"], : meta["images"]["width"]]
    labels = (a * (y // step_y) + b * (x // step_x) + image) % modulus
    return torch.as_tensor(np.where(labels == hole, ignored, labels), dtype=torch.int64)


def _check_gradients(model: SED, case: Case) -> list[Comparison]:
    official: dict[str, Any] = checkpoint_table().to_official(dict(model.named_parameters()))
    rows = []
    for name, wanted in case.meta["gradient_norms"].items():
        ours = official[name].grad.norm().item()
        if wanted < _TINY_GRADIENT:
            difference = abs(ours - wanted)
            rows.append(
                Comparison(
                    name=f"grad_norm {name}",
                    shape=(),
                    difference=difference,
                    relative=difference,
                    passed=difference < _TINY_GRADIENT,
                )
            )
        else:
            rows.append(case.compare_number(f"grad_norm {name}", ours, wanted, tolerance=2e-3))
    trained = [p.grad.norm() for p in model.parameters() if p.requires_grad and p.grad is not None]
    total = torch.stack(trained).norm().item()
    return [*rows, case.compare_number("total_grad_norm", total, case.meta["total_grad_norm"], tolerance=2e-3)]


def _check_optimizer(model: SED, meta: dict[str, Any], cfg: CfgNode) -> Comparison:
    """Trainable parameters with learning-rate multiplier and weight decay, under official names."""
    wanted = {name: (entry["lr_mult"], entry["weight_decay"]) for name, entry in meta["trainable"].items()}
    return compare_sets("trainable parameters", optimizer_table(model, cfg), wanted)


def optimizer_table(model: SED, cfg: CfgNode) -> dict[str, tuple[float, float]]:
    """Official name -> (learning-rate multiplier, weight decay) of every trainable parameter."""
    result = {}
    for name, setting in parameter_settings(cfg, model).items():
        (official,) = checkpoint_table().to_official({name: torch.zeros(())})
        result[official] = (round(setting.lr / cfg.SOLVER.BASE_LR, 9), setting.weight_decay)
    return result


def _check_decoder(case: Case, cfg: CfgNode) -> list[Comparison]:
    """The decoder alone on synthetic inputs, with and without early rejection."""
    meta = case.meta
    decoder = build_decoder(cfg, _BACKBONE_WIDTHS).eval()
    official = checkpoint_table().to_official(
        {f"decoder.{name}": value for name, value in decoder.state_dict().items()}
    )
    seed = meta["weight_seed"]
    values = {n: seeded_tensor(n.removeprefix(_DECODER), v.shape, seed) for n, v in official.items()}
    ours = checkpoint_table().to_ours(values, source="seeded weights")
    decoder.load_state_dict({name.removeprefix("decoder."): value for name, value in ours.items()})
    features, text = _decoder_inputs(meta, decoder)
    recorded: Recorded = defaultdict(list)
    with torch.inference_mode():
        aux0, aux1, aux2, _ = decoder(features, text)
        logits, _ = decoder.predict(features, text)
        with _recording_decoder(decoder, recorded):
            fast, kept = decoder.predict(features, text, EarlyRejection(top_k=meta["topk"]))
    probabilities = torch.zeros(1, len(text), *fast.shape[1:])
    probabilities[0, kept] = fast.sigmoid()
    arrays = {name: parts[0] for name, parts in recorded.items() if name.startswith("selected")}
    for step in range(3):
        arrays[f"cer_aux{step}"] = torch.cat(recorded[f"aux_head{step}"], dim=1)[:, :, 0]
    arrays |= {
        "emb": features.embeddings,
        "text": text[None],
        "logit": logits[None],
        "aux0": aux0,
        "aux1": aux1,
        "aux2": aux2,
        "cer_prob": probabilities,
        "selected_final": kept,
        "argmax": logits.argmax(dim=0),
        "cer_argmax": probabilities[0].argmax(dim=0),
    }
    return [case.compare(name, arrays[name]) for name in case.names]


def _decoder_inputs(meta: dict[str, Any], decoder: SEDDecoder) -> tuple[ImageFeatures, Tensor]:
    """Seeded image features (projected by `decoder`) and text embeddings `[T, P, D]`."""
    seed, size, height, width = meta["weight_seed"], meta["D"], meta["h"], meta.get("w", meta["h"])

    def drawn(name: str, shape: tuple[int, ...], fan_in: int) -> Tensor:
        return seeded_tensor(name, shape, seed) * float(fan_in) ** 0.5

    embeddings = drawn("emb_const", (1, size, 1, 1), size) + 0.05 * drawn(
        "emb_var", (1, size, height, width), size * height * width
    )
    backbone = []
    projections: Any = decoder.visual_guidance.projections
    for step, (name, projection) in enumerate(zip(("res4", "res3", "res2"), projections, strict=True), start=1):
        shape = (1, projection.in_channels, height * 2**step, width * 2**step)
        backbone.append(drawn(name, shape, int(np.prod(shape))) * 0.1)
    text = F.normalize(seeded_tensor("text", (1, meta["T"], decoder.embed.in_channels, size), seed), dim=-1)[0]
    with torch.no_grad():
        return ImageFeatures(embeddings, decoder.visual_guidance(backbone)), text

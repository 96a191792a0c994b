"""Runs SegCLIP as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import contextlib
import re
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
from conformance.seeded import seeded_image
from twostage.config import load_config
from twostage.data.augmentation import ResizeWithin
from twostage.engine.optimizer import parameter_settings
from twostage.systems.building import build_model
from twostage.systems.one_stage.segclip import model as segclip_model
from twostage.systems.one_stage.segclip import semantic_layer as layer_module
from twostage.systems.one_stage.segclip.losses import superpixel_divergences
from twostage.systems.one_stage.segclip.model import SegCLIP
from twostage.systems.one_stage.segclip.zero_shot import add_background, group_affinities
from twostage.vocabulary import Vocabulary

_Arrays = dict[str, Any]


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SegCLIP case with ours."""
    meta = case.meta
    root = Path(__file__).parents[2]
    cfg = load_config(str(root / "configs/segclip_vitb.yaml"), ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""])
    # Every tensor comes from the seed, so no pretrained weights are read.
    cfg.MODEL.CLIP.PRETRAINED = ""
    cfg.MODEL.SEGCLIP.MIX_BATCH = "reinterpreted" in meta.get("key_layout", "")
    if "classes" in meta:
        cfg.TEST.SLIDING.TILE, cfg.TEST.SLIDING.STRIDE = meta["crop"], meta["stride"]
        cfg.MODEL.SEGCLIP.BACKGROUND_THRESHOLD = meta.get("bg_thresh") or 0.0
    model = build_model(cfg)
    overrides = {"weights": {"weight_sets": meta.get("weight_overrides", {})}}
    load_seeded(model, model.checkpoint_table(), {**meta, **overrides})
    if "classes" in meta:
        return _check_inference(model.eval(), case)
    return _check_training(model.train(), case, cfg)


def _check_inference(model: SegCLIP, case: Case) -> list[Comparison]:
    meta = case.meta
    pixels = seeded_image(meta["image"]["height"], meta["image"]["width"], meta["image"]["seed"])
    size = pixels.shape[:2]
    arrays: _Arrays = {}
    if not meta["feeding"].startswith("no resize"):
        short = re.search(r"short edge (\d+)", meta["feeding"])
        resize = ResizeWithin(long=2048, short=int(short.group(1)) if short else 224)
        pixels = resize.get_transform(pixels).apply_image(pixels)
        arrays["image_resized"] = pixels
    batch = [{"image": torch.as_tensor(pixels.transpose(2, 0, 1).copy())}]
    model.text = _text_of_templates(model, meta["templates"])
    names = Vocabulary.published(meta["classes"])
    with torch.no_grad(), _recording(model) as recorded:
        images = model.preprocess(batch)
        words = model.embed_vocabulary(names)
        encoded = model.encode(images)
        prediction = model.decode(encoded, words)
        scores = prediction.scores([size])[0]
        labels = prediction.label_maps([size])[0]
        prompted = names.names[1:] if words.background else names.names
        prompts = [template.format(name) for name in prompted for template in meta["templates"]]
        arrays["text_embedding_raw"] = model.text.encode_prompts(prompts)
        arrays |= _window_arrays(model, encoded, words, recorded)
    tokens = model.text.tokenize(prompts)
    arrays |= {
        "tokens": F.pad(tokens, (0, 77 - tokens.shape[1])),
        "text_embedding": words.text,
        "network_input": images.tensor,
        "sem_seg": scores[None],
        "argmax_4": scores.argmax(dim=0)[::4, ::4],
    }
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # The label map that evaluation uses must say the same as the full scores.
    same = float((labels[::4, ::4] == arrays["argmax_4"]).float().mean())
    rows.append(
        Comparison(
            name="label_map", shape=tuple(labels.shape), difference=1 - same, relative=1 - same, passed=same >= 0.9999
        )
    )
    return rows


def _text_of_templates(model: SegCLIP, templates: list[str]) -> Any:
    """The model's text embedder with the case's own templates."""
    model.text._templates = tuple(templates)
    return model.text


def _window_arrays(model: SegCLIP, encoded: Any, words: Any, recorded: _Arrays) -> _Arrays:
    """Intermediates of each window, and its scores per pixel as the published code holds them."""
    (windows,) = encoded.windows
    encoding = windows.encoding
    affinities = group_affinities(encoding, words.text, model.scale)
    if words.background:
        affinities = add_background(affinities, model.background_threshold)
    whole = {
        **recorded,
        "projected": torch.cat([encoding.image[:, None], encoding.groups], dim=1),
        "soft_attn": encoding.grouping.soft,
        "hard_attn": encoding.grouping.hard,
        "centre_tokens": encoding.grouping.tokens,
    }
    arrays: _Arrays = {}
    for index, owners in enumerate(windows.owners):
        arrays |= {f"w{index}_{name}": value[index : index + 1] for name, value in whole.items()}
        arrays[f"w{index}_window_logits"] = affinities[index][owners].permute(2, 0, 1)[None]
        arrays[f"w{index}_group_logits"] = model.scale * F.normalize(encoding.groups[index], dim=-1) @ words.text.T
    return arrays


@contextlib.contextmanager
def _recording(model: SegCLIP) -> Iterator[_Arrays]:
    """Intermediates of the image encoder, under the names of the cases; of several passes the last."""
    visual, layer = model.clip.visual, model.semantic_layer
    arrays: _Arrays = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, out: arrays.__setitem__(name, out)

    hooks = [
        visual.ln_pre.register_forward_hook(keep("ln_pre")),
        visual.ln_post.register_forward_hook(keep("ln_post")),
        layer.query_norm.register_forward_hook(keep("centre_query")),
        layer.key_norm.register_forward_hook(keep("centre_keys")),
        layer.register_forward_pre_hook(lambda _module, inputs: arrays.__setitem__("layers0", inputs[0])),
    ]
    hooks.append(
        # The groups behind CLIP's last block: what the projection's norm sees, but for the image token.
        visual.ln_post.register_forward_pre_hook(
            lambda _module, inputs: arrays.__setitem__("layers2", inputs[0][:, 1:])
        )
    )
    try:
        yield arrays
    finally:
        for hook in hooks:
            hook.remove()


def _check_training(model: SegCLIP, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta = case.meta
    arrays: _Arrays = {name: torch.as_tensor(case.arrays[name]) for name in ("gumbel_0", "gumbel_1", "mask_noise")}
    batch = _training_batch(case, arrays)
    with _given_noise(arrays), _recording_training(model, arrays):
        losses = model(batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    arrays["image"] = model.preprocess(batch).tensor
    tokens = model.text._tokenizer(meta["captions"], context_length=case.arrays["input_ids"].shape[1])
    arrays["input_ids"] = tokens
    rows = [case.compare(name, arrays[name]) for name in case.names]
    first, second = superpixel_divergences(
        arrays["p0_hard_attn"], torch.as_tensor(case.arrays["superpixel"]).flatten(1).long()
    )
    target = torch.arange(len(batch))
    ours = {
        "contrastive_text_to_image": F.cross_entropy(arrays["sim_t2v"], target),
        "contrastive_image_to_text": F.cross_entropy(arrays["sim_v2t"], target),
        "contrastive": losses["loss_contrastive"],
        "superpixel_kl_assign_to_mean_sum": first,
        "superpixel_kl_mean_to_assign_sum": second,
        "superpixel_kl": losses["loss_superpixel"],
        "mae": losses["loss_reconstruction"],
        "total": total,
    }
    rows += [case.compare_number(name, ours[name].item(), wanted) for name, wanted in meta["losses"].items()]
    return rows + _check_gradients(model, case) + _check_optimizer(model, case, cfg)


def _training_batch(case: Case, arrays: _Arrays) -> list[dict[str, Any]]:
    """Pictures, captions and superpixels of a training case; the stored ids are of patches, so pixels repeat them."""
    batch = []
    meta = case.meta
    for index, entry in enumerate(meta["images"]):
        pixels = seeded_image(entry["height"], entry["width"], entry["seed"])
        centres = pixels[8::16, 8::16].astype(np.int64) // 64
        ids = centres @ np.array([16, 4, 1])
        batch.append(
            {
                "image": torch.as_tensor(pixels.transpose(2, 0, 1).copy()),
                "caption": meta["captions"][index],
                "superpixels": torch.as_tensor(ids.repeat(16, axis=0).repeat(16, axis=1)),
            }
        )
        arrays.setdefault("superpixel", []).append(torch.as_tensor(ids))
    arrays["superpixel"] = torch.stack(arrays["superpixel"])
    return batch


@contextlib.contextmanager
def _given_noise(arrays: _Arrays) -> Iterator[None]:
    """The model draws the case's noise, in the case's order."""
    gumbel = iter((arrays["gumbel_0"], arrays["gumbel_1"]))
    with (
        mock.patch.object(layer_module, "gumbel_noise", lambda _like: next(gumbel)),
        mock.patch.object(segclip_model, "masking_noise", lambda _tokens: arrays["mask_noise"]),
    ):
        yield


@contextlib.contextmanager
def _recording_training(model: SegCLIP, arrays: _Arrays) -> Iterator[None]:
    """Intermediates of both passes of a training step, under the names of the cases."""
    layer, reconstruction = model.semantic_layer, model.reconstruction
    queries: list[Tensor] = []
    passes: list[int] = []

    def record_layer(_module: Any, inputs: Any, out: Any) -> None:
        prefix = f"p{len(passes)}"
        passes.append(len(passes))
        arrays[f"{prefix}_layers0"] = inputs[0]
        arrays[f"{prefix}_centre_tokens"], arrays[f"{prefix}_hard_attn"], arrays[f"{prefix}_soft_attn"] = out
        arrays[f"{prefix}_centre_query"] = queries[-1]

    def record_decoder(_module: Any, inputs: Any, out: Any) -> None:
        arrays["mae_hidden"], arrays["mae_restore"] = inputs
        arrays["mae_blocks"] = inputs[0][:, 1:]

    hooks = [
        layer.query_norm.register_forward_hook(lambda _module, _inputs, out: queries.append(out)),
        layer.register_forward_hook(record_layer),
        reconstruction.activation.register_forward_hook(
            lambda _module, _inputs, out: arrays.__setitem__("mae_reconstructed", out)
        ),
        reconstruction.decoder.register_forward_hook(record_decoder),
        reconstruction.decoder.pred.register_forward_hook(
            lambda _module, _inputs, out: arrays.__setitem__("mae_pred", out)
        ),
    ]
    contrast = segclip_model.ClipLoss.get_logits

    def record_logits(self: Any, *args: Any, **kwargs: Any) -> Any:
        arrays["sim_v2t"], arrays["sim_t2v"] = contrast(self, *args, **kwargs)
        return arrays["sim_v2t"], arrays["sim_t2v"]

    choose = segclip_model.choose_visible

    def record_visible(*args: Any) -> Any:
        visible = choose(*args)
        # The class token is never hidden.
        arrays["mae_mask"] = F.pad(visible.hidden, (1, 0))
        return visible

    with (
        mock.patch.object(segclip_model.ClipLoss, "get_logits", record_logits),
        mock.patch.object(segclip_model, "choose_visible", record_visible),
    ):
        yield
    for hook in hooks:
        hook.remove()


def _check_gradients(model: SegCLIP, case: Case) -> list[Comparison]:
    official: dict[str, Any] = model.checkpoint_table().to_official(dict(model.named_parameters()))
    rows = []
    for name, wanted in case.meta["gradient_norms"].items():
        ours = official[name].grad.norm().item()
        rows.append(case.compare_number(f"gradient norm {name}", ours, wanted, tolerance=2e-3))
    norms = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
    rows.append(case.compare_number("gradient norm", norms.norm().item(), case.meta["gradient_norm_total"]))
    return rows


def _check_optimizer(model: SegCLIP, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with learning rate and weight decay, under official names."""
    rates = {"lr (4e-3)": 4e-3, "lower_lr (4e-6)": 4e-6}
    wanted = {
        name: (rates[entry["lr"]], entry["weight_decay"]) for name, entry in case.meta["optimizer_groups"].items()
    }
    table = model.checkpoint_table()
    ours = {}
    for name, setting in parameter_settings(cfg, model).items():
        # The table renames dictionaries; one entry at a time tells which name belongs to which.
        (official,) = table.to_official({name: torch.zeros(())})
        ours[official] = (round(setting.lr, 12), setting.weight_decay)
    return [compare_sets("trainable parameters", ours, wanted)]

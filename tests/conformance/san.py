"""Runs SAN as a reference case says and hands out the same arrays that the case stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.structures import Instances
from torch import Tensor

from conformance.case import Case, Comparison, compare_sets, load_seeded
from conformance.seeded import seeded_image, stream
from twostage.clip.regions import shadow_tokens as recognition
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.proposals.losses import MaskLosses
from twostage.proposals.matching import HungarianMatcher
from twostage.systems.building import build_model
from twostage.systems.two_stage.san import model as san_model
from twostage.systems.two_stage.san.model import SAN
from twostage.vocabulary import Vocabulary

_CONFIGS = {"base": "configs/san_vitb.yaml", "large": "configs/san_vitl.yaml"}


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SAN case with ours."""
    root = Path(__file__).parents[2]
    cfg = load_config(str(root / _CONFIGS[case.meta["variant"]]), ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""])
    # Every tensor comes from the seed, so no pretrained weights are read.
    cfg.MODEL.CLIP.PRETRAINED = ""
    model = build_model(cfg)
    load_seeded(model, model.checkpoint_table(), case.meta)
    if case.meta["kind"] == "inference":
        return _check_inference(model.eval(), case)
    return _check_training(model.train(), case, cfg)


def _check_inference(model: SAN, case: Case) -> list[Comparison]:
    meta = case.meta
    arrays: dict[str, Any] = {}
    image = seeded_image(meta["image_hw"][0], meta["image_hw"][1], meta["image_seed"])
    if meta["resize"] == "ResizeShortestEdge":
        image = np.array(T.ResizeShortestEdge([640, 640], 2560).get_transform(image).apply_image(image))
    arrays["image_resized"] = image
    height, width = meta["output_hw"]
    batch = [
        {"image": torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))), "height": height, "width": width}
    ]
    names = Vocabulary.published(meta["class_names"])
    with torch.no_grad(), _recording(model, arrays):
        images = model.preprocess(batch)
        text = model.text(names)
        encoded = model.encode(images)
        prediction = model.decode(encoded, text)
        scores = prediction.scores([(height, width)])[0]
        labels = prediction.label_maps([(height, width)])[0]
    classifier = model.classifier(text).rows
    grid = (prediction.mask_logits.shape[-2], prediction.mask_logits.shape[-1])
    resampler = prediction.frames.resampler(0, grid, (height, width), scores.device)
    resized = resampler(prediction.mask_logits[0])
    arrays |= {
        "ov_classifier_normalised": F.normalize(classifier, dim=-1),
        "ov_classifier_weight": classifier,
        "side_input": images.tensor,
        "mask_preds": prediction.mask_logits,
        "mask_embs": encoded.outputs[0][1],
        "mask_logits": prediction.class_logits[0],
        "mask_pred_resized": resized,
        "sem_seg": scores,
        "argmax": scores.argmax(dim=0)[::4, ::4],
    }
    rows = [case.compare(name, arrays[name]) for name in case.names]
    # The label map that evaluation uses must say the same as the full scores.
    same = float((labels[::4, ::4] == arrays["argmax"]).float().mean())
    rows.append(
        Comparison(
            name="label_map", shape=tuple(labels.shape), difference=1 - same, relative=1 - same, passed=same >= 0.9999
        )
    )
    return rows


@contextlib.contextmanager
def _recording(model: SAN, arrays: dict[str, Any]) -> Iterator[None]:
    """Keep intermediates of one forward pass in `arrays`, under the names of the cases."""
    adapter, queries = model.side_adapter, model.side_adapter.query_embed.shape[1]
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, name=f"side_block_{i}_out": arrays.__setitem__(name, out))
        for i, block in enumerate(adapter.blocks)
    ]
    hooks += [
        adapter.decoder.query_mlp.register_forward_hook(
            lambda _m, args, out: arrays.update(query_tokens=args[0], query_mlp_out=out)
        ),
        adapter.decoder.pix_mlp.register_forward_hook(lambda _m, _i, out: arrays.update(pix_mlp_out=out)),
        model.clip.visual.ln_post.register_forward_hook(lambda _m, _i, out: arrays.update(rec_sos_ln_post=out)),
        model.clip.visual.conv1.register_forward_hook(lambda _m, args, _o: arrays.update(clip_input=args[0])),
    ]
    fuse, run, finish, pool = adapter._fuse, san_model.run_blocks, recognition.finish_block, recognition.pool_bias
    seen: list[Any] = []

    def record_fuse(index: int, x: Tensor, *args: Any) -> Tensor:
        out = fuse(index, x, *args)
        arrays[f"side_after_fusion_layer_{index}"] = out[:, queries:]
        return out

    def record_blocks(*args: Any) -> Any:
        last, tapped = run(*args)
        for index, tokens in tapped.items():
            arrays[f"clip_feat_{index}"] = tokens.patch_map
            arrays[f"clip_cls_{index}"] = tokens.class_token.transpose(0, 1)
        return last, tapped

    def record_finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
        out = finish(block, x, attended)
        if block not in seen:
            # The first call of a block is for the shadow tokens.
            arrays[f"rec_block_{len(seen)}_sos"] = out.transpose(0, 1)
            seen.append(block)
        return out

    def record_pool(bias: Tensor, grid: tuple[int, int]) -> Tensor:
        pooled = pool(bias, grid)
        arrays["attn_bias"] = bias
        arrays["rec_attn_mask"] = _dense_mask(pooled[0])
        return pooled

    with (
        mock.patch.object(adapter, "_fuse", record_fuse),
        mock.patch.object(san_model, "run_blocks", record_blocks),
        mock.patch.object(recognition, "finish_block", record_finish),
        mock.patch.object(recognition, "pool_bias", record_pool),
    ):
        yield
    for hook in hooks:
        hook.remove()


def _dense_mask(pooled: Tensor) -> Tensor:
    """The published additive mask `[H, S + 1 + N, S + 1 + N]` that our attention stands for, from biases `[H, S, N]`."""
    heads, shadows, patches = pooled.shape
    mask = pooled.new_zeros(heads, shadows + 1 + patches, shadows + 1 + patches)
    mask[:, :, :shadows] = -100
    mask[:, :shadows, shadows] = -100
    mask[:, range(shadows), range(shadows)] = 0
    mask[:, :shadows, shadows + 1 :] = pooled
    return mask


def _check_training(model: SAN, case: Case, cfg: Any) -> list[Comparison]:
    meta = case.meta
    batch, arrays = _training_batch(meta)
    with _seeded_rand(meta["rand_seed"]), _recording_losses(arrays):
        losses = model(batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    rows = [case.compare(name, arrays[name], tolerance=5e-4 if "cost" in name else 1e-4) for name in case.names]
    for name, wanted in meta["losses_weighted"].items():
        rows.append(case.compare_number(name, losses[name].item(), wanted))
    rows.append(case.compare_number("total_loss", total.item(), meta["total_loss"]))
    official: dict[str, Any] = model.checkpoint_table().to_official(dict(model.named_parameters()))
    for name, wanted in meta["grad_norm"].items():
        rows.append(case.compare_number(f"grad_norm {name}", official[name].grad.norm().item(), wanted, tolerance=2e-3))
    return rows + _check_optimizer(model, meta, cfg)


def _training_batch(meta: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Inputs of a training case, and its label maps under the names of the stored arrays."""
    batch, arrays = [], {}
    for index, entry in enumerate(meta["images"]):
        height, width = entry["hw"]
        labels = np.full((height, width), 255, np.uint8)
        for label, top, left, bottom, right in entry["rects"]:
            labels[top:bottom, left:right] = label
        arrays[f"label_map_{index}"] = labels
        classes = np.unique(labels[labels != 255])
        instances = Instances((height, width))
        instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
        instances.gt_masks = torch.as_tensor(labels == classes[:, None, None])
        image = torch.as_tensor(seeded_image(height, width, entry["seed"]).transpose(2, 0, 1).copy())
        batch.append({"image": image, "vocabulary": meta["class_names"], "instances": instances})
    return batch, arrays


@contextlib.contextmanager
def _seeded_rand(seed: int) -> Iterator[None]:
    """`torch.rand` draws from a stream named after the wanted size."""

    def rand(*size: Any, **_: Any) -> Tensor:
        shape = tuple(size[0]) if isinstance(size[0], tuple | list | torch.Size) else size
        name = f"rand:{'x'.join(str(n) for n in shape)}"
        return torch.from_numpy(stream(seed, name).random(shape, dtype=np.float32))

    with mock.patch("torch.rand", rand):
        yield


@contextlib.contextmanager
def _recording_losses(arrays: dict[str, Any]) -> Iterator[None]:
    """Keep predictions, costs and matches of a training step in `arrays`."""
    matcher = HungarianMatcher
    call, cost, losses = matcher.__call__, matcher.cost, MaskLosses.__call__

    def record_cost(self: Any, *args: Any) -> Tensor:
        out = cost(self, *args)
        arrays[f"cost_{sum(k.startswith('cost_') for k in arrays)}"] = out
        return out

    def record_call(self: Any, *args: Any) -> Any:
        pair = call(self, *args)
        index = sum(k.endswith("_query") for k in arrays)
        arrays[f"match_{index}_query"], arrays[f"match_{index}_target"] = pair
        return pair

    def record_losses(self: Any, outputs: Any, targets: Any) -> Any:
        for name, (class_logits, mask_logits) in zip(("final", "aux0", "aux1"), outputs, strict=False):
            arrays[f"pred_logits_{name}"], arrays[f"pred_masks_{name}"] = class_logits, mask_logits
        return losses(self, outputs, targets)

    with (
        mock.patch.object(matcher, "cost", record_cost),
        mock.patch.object(matcher, "__call__", record_call),
        mock.patch.object(MaskLosses, "__call__", record_losses),
    ):
        yield


def _check_optimizer(model: SAN, meta: dict[str, Any], cfg: Any) -> list[Comparison]:
    """Trainable parameters with learning-rate multiplier and weight decay, under official names."""
    wanted = {
        name: (entry["lr_multiplier"], entry["weight_decay"]) for name, entry in meta["optimizer"]["trainable"].items()
    }
    settings = parameter_settings(cfg, model)
    names = {name: torch.zeros(()) for name in settings}
    # The table renames dictionaries; one entry at a time tells which name belongs to which.
    official = {name: next(iter(model.checkpoint_table().to_official({name: value}))) for name, value in names.items()}
    ours = {official[n]: (s.lr / cfg.SOLVER.BASE_LR, s.weight_decay) for n, s in settings.items()}
    return [compare_sets("trainable parameters", ours, wanted)]

"""A training step of SegCLIP with the noise that a case stores."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_names, compare_number, compare_sets
from conformance.formulas import evaluate, found
from conformance.inputs import picture
from conformance.optimizer import check_gradients, official_names
from conformance.recording import Arrays, Hook, after, hooked, keep, patched
from twostage.data.mapper import to_tensor
from twostage.engine.optimizer import parameter_settings
from twostage.systems.one_stage.segclip import model as segclip_model
from twostage.systems.one_stage.segclip import semantic_layer as layer_module
from twostage.systems.one_stage.segclip.losses import superpixel_divergences
from twostage.systems.one_stage.segclip.model import SegCLIP


def check_training(model: SegCLIP, case: Case, cfg: CfgNode) -> list[Comparison]:
    """One training step: intermediates of both passes, losses, gradients, trainable parameters."""
    meta = case.meta
    arrays: Arrays = {name: torch.as_tensor(case.arrays[name]) for name in ("gumbel_0", "gumbel_1", "mask_noise")}
    batch, arrays["superpixel"] = _training_batch(case, model.clip.visual.conv1.kernel_size[0])
    with _given_noise(arrays), _recording(model, arrays):
        losses = model(batch)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
    arrays["image"] = model.preprocess(batch).tensor
    arrays["input_ids"] = model.text._tokenizer(meta["captions"], context_length=model.caption_tokens)
    rows = case.compare_all(arrays)
    ours = _losses(losses, total, arrays)
    rows += [compare_number(name, ours[name].item(), wanted) for name, wanted in meta["losses"].items()]
    norms = meta.get("gradient_norms", {})
    rows += check_gradients(model, case, norms=norms, total="gradient_norm_total")
    case.told("feeding", "loss_weights", "loss_notes")
    return rows + _check_optimizer(model, case, cfg)


def _losses(losses: dict[str, Tensor], total: Tensor, arrays: Arrays) -> dict[str, Tensor]:
    """Losses and their parts under the names of the cases."""
    first, second = superpixel_divergences(arrays["p0_hard_attn"], arrays["superpixel"].flatten(1).long())
    target = torch.arange(len(arrays["sim_t2v"]))
    return {
        "contrastive_text_to_image": F.cross_entropy(arrays["sim_t2v"], target),
        "contrastive_image_to_text": F.cross_entropy(arrays["sim_v2t"], target),
        "contrastive": losses["loss_contrastive"],
        "superpixel_kl_assign_to_mean_sum": first,
        "superpixel_kl_mean_to_assign_sum": second,
        "superpixel_kl": losses["loss_superpixel"],
        "mae": losses["loss_reconstruction"],
        "total": total,
    }


def _training_batch(case: Case, patch: int) -> tuple[list[dict[str, Any]], Tensor]:
    """Pictures, captions and superpixels of a training case, and the ids of patches `[B, h, w]`; pixels repeat them.

    An id is a formula of the pixel at the patch's centre: "label of a patch = (R//64)*16+(G//64)*4+(B//64) of the ...".
    """
    meta, batch, ids_of = case.meta, [], []
    formula = found(r"label of a patch = (.+?) of the", meta["superpixels"], "the superpixels")[1]
    for entry, caption in zip(meta["images"], meta["captions"], strict=True):
        pixels = picture(entry)
        red, green, blue = np.moveaxis(pixels[patch // 2 :: patch, patch // 2 :: patch].astype(np.int64), 2, 0)
        ids = torch.as_tensor(evaluate(formula, R=red, G=green, B=blue))
        repeated = ids.repeat_interleave(patch, 0).repeat_interleave(patch, 1)
        batch.append({"image": to_tensor(pixels), "caption": caption, "superpixels": repeated})
        ids_of.append(ids)
    return batch, torch.stack(ids_of)


@contextlib.contextmanager
def _given_noise(arrays: Arrays) -> Iterator[None]:
    """The model draws the case's noise, in the case's order."""
    gumbel = iter((arrays["gumbel_0"], arrays["gumbel_1"]))
    with patched(
        (layer_module, "gumbel_noise", lambda _like: next(gumbel)),
        (segclip_model, "masking_noise", lambda _tokens: arrays["mask_noise"]),
    ):
        yield


@contextlib.contextmanager
def _recording(model: SegCLIP, arrays: Arrays) -> Iterator[None]:
    """Intermediates of both passes of a training step, under the names of the cases."""
    layer, reconstruction = model.semantic_layer, model.reconstruction
    queries: list[Tensor] = []
    passes: list[int] = []

    def keep_layer(args: Any, out: Any) -> None:
        prefix = f"p{len(passes)}"
        passes.append(len(passes))
        arrays[f"{prefix}_layers0"] = args[0]
        arrays[f"{prefix}_centre_tokens"], arrays[f"{prefix}_hard_attn"], arrays[f"{prefix}_soft_attn"] = out
        arrays[f"{prefix}_centre_query"] = queries[-1]

    def keep_decoder(args: Any, _out: Any) -> None:
        arrays["mae_hidden"], arrays["mae_restore"] = args
        arrays["mae_blocks"] = args[0][:, 1:]

    hooks: list[Hook] = [
        (layer.query_norm, lambda _a, out: queries.append(out)),
        (layer, keep_layer),
        (reconstruction.activation, keep(arrays, "mae_reconstructed")),
        (reconstruction.decoder, keep_decoder),
        (reconstruction.decoder.pred, keep(arrays, "mae_pred")),
    ]

    def keep_logits(out: Any, *_: Any) -> None:
        arrays["sim_v2t"], arrays["sim_t2v"] = out

    def keep_visible(visible: Any, *_: Any) -> None:
        # The class token is never hidden.
        arrays["mae_mask"] = F.pad(visible.hidden, (1, 0))

    with (
        hooked(hooks),
        patched(
            after(segclip_model.ClipLoss, "get_logits", keep_logits),
            after(segclip_model, "choose_visible", keep_visible),
        ),
    ):
        yield


def _check_optimizer(model: SegCLIP, case: Case, cfg: CfgNode) -> list[Comparison]:
    """Trainable parameters with learning rate ("lr (4e-3)") and weight decay, under official names."""
    stored = case.meta.get("optimizer_groups")
    if stored is None:
        return case.skip("the optimizer's groups, which the case does not have")
    wanted = {name: (float(re.sub(r".*\((.+)\)", r"\1", e["lr"])), e["weight_decay"]) for name, e in stored.items()}
    names = official_names(model, model.checkpoint_table())
    settings = parameter_settings(cfg, model).items()
    rows = [
        compare_sets("trainable parameters", {names[n]: (round(s.lr, 12), s.weight_decay) for n, s in settings}, wanted)
    ]
    if "not_trainable" in case.meta:
        frozen = [names[n] for n, p in model.named_parameters() if not p.requires_grad]
        rows.append(
            compare_names("not trainable", frozen, _known_here(case.meta["not_trainable"], set(names.values())))
        )
    return rows


def _known_here(listed: list[str], ours: set[str]) -> list[str]:
    """Listed names of tensors that are parameters here, too; fixed position codes are none."""
    return [name for name in listed if name in ours]

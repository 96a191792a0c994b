"""Reference cases of OVSeg's single parts: crops, mask-prompted CLIP, losses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.formulas import evaluate, found
from conformance.inputs import picture, pictures_of, size_of, stored_masks
from conformance.recording import Arrays, after, patched
from conformance.seeded import seeded_state, seeded_tensor, stream
from conformance.settings import clip_name
from conformance.training import check_loss_fields
from twostage.clip.loading import load_clip
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.regions.mask_prompt import add_mask_prompts, masked_image_embeddings, visible_patches
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.towers import vit
from twostage.data.mapper import to_tensor
from twostage.proposals.losses import MaskLosses
from twostage.proposals.matching import HungarianMatcher, MaskTargets

_SIDE = 224
_UNITS = PixelUnits(CLIP_STATISTICS.rounded())
_VISUAL = "clip_adapter.clip_model.visual."


def check_regions(case: Case) -> list[Comparison]:
    """Crops and their masks under several settings."""
    case.told("masks")
    image = to_tensor(picture(case.meta["image"])).float()
    probabilities = torch.from_numpy(case.arrays["mask_u8"]).float() / 255
    rows = []
    for settings in case.meta["sets"]:
        cut = _cut(image, probabilities, settings)
        rows += case.compare_all({f"{settings['set']}.{key}": value for key, value in cut.items()})
    return rows


def _cut(image: Tensor, probabilities: Tensor, settings: dict[str, Any]) -> dict[str, Tensor]:
    """What a set of the case stores, under its names."""
    masks = probabilities > settings["mask_thr"]
    valid = masks.flatten(1).any(dim=1)
    weights = probabilities[valid] if settings["mask_matting"] else masks[valid]
    boxes = mask_boxes(masks[valid])
    colour = CLIP_STATISTICS.mean if settings["mask_fill"] == "mean" else (0.0, 0.0, 0.0)
    fill = CLIP_STATISTICS.rounded().colour(colour)
    cropper = Cropper(size=_SIDE, expand_ratio=settings["mask_expand_ratio"], background=fill)
    crops = cropper(_UNITS(image), weights, boxes)
    flat = crops.images.flatten(2)
    packed = np.packbits(crops.masks[:, 0].flatten(1).bool().numpy(), axis=1)
    return {
        "crops": crops.images,
        "crops_unnormalised": crops.images * _UNITS.std + _UNITS.mean,
        "crop_channel_mean": flat.mean(dim=2),
        "crop_channel_std": flat.std(dim=2),
        "valid": valid,
        "region_masks_packed": torch.from_numpy(packed),
        "token_mask_p16": visible_patches(crops.masks, 16).unflatten(1, (14, 14))[..., 0],
        "token_mask_p14": visible_patches(crops.masks, 14).unflatten(1, (16, 16))[..., 0],
        "boxes_xyxy": boxes,
    }


def unit_masks(text: str, side: int) -> Tensor:
    """Masks `[N, 1, side, side]` told in words: "columns < 100; disc (y-120)^2+(x-90)^2<3600; all ones; |y-50|<3"."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = []
    for told in text.rpartition("float:")[2].split(";"):
        formula = told.strip().removeprefix("disc ").replace("columns", "x").replace("rows", "y")
        masks.append(torch.ones_like(x) if formula.startswith("all ones") else evaluate(formula, x=x, y=y))
    return torch.stack([mask.float() for mask in masks])[:, None]


@torch.no_grad()
def check_clip(case: Case) -> list[Comparison]:
    """The image tower with and without mask prompts."""
    meta = case.meta
    # The names that seeds go by are the official ones.
    case.told("weight_names")
    count = int(found(r"(\d+) crops", meta["crops"], "the crops")[1])
    pictures = np.stack(pictures_of(meta["crops"], count)).transpose(0, 3, 1, 2)
    crops = _UNITS(torch.from_numpy(pictures.astype(np.float32)))
    masks = unit_masks(meta["masks"], pictures.shape[-1])
    rows = []
    for settings in meta["sets"]:
        visual = _seeded_tower(settings, meta["weight_seed"])
        arrays = _recorded_tower(visual, crops, masks)
        rows += case.compare_all({f"{settings['set']}.{key}": value for key, value in arrays.items()})
    return rows


def _seeded_tower(settings: Any, seed: int) -> Any:
    """CLIP's image tower with the mask prompts of a set, seeded by official names."""
    clip, _ = load_clip(clip_name(settings["clip"]), quick_gelu="on")
    names = {_VISUAL + key: value for key, value in clip.visual.state_dict().items()}
    state = seeded_state(names, seed=seed)
    clip.visual.load_state_dict({key.removeprefix(_VISUAL): value for key, value in state.items()})
    prompts = seeded_tensor(f"{_VISUAL}mask_embedding", settings["mask_embedding_shape"], seed)
    add_mask_prompts(clip.visual, settings["mask_prompt_depth"], prompts)
    return clip.visual


def _recorded_tower(visual: Any, crops: Tensor, masks: Tensor) -> Arrays:
    """Embeddings with and without masks, and the first tokens and block outputs of the run with masks."""
    arrays: Arrays = {"without_mask": masked_image_embeddings(visual, crops, None)}
    blocks = list(visual.transformer.resblocks)

    def keep_block(out: Tensor, block: Any, _x: Tensor) -> None:
        arrays[f"with_mask.block{blocks.index(block)}_out"] = out.transpose(0, 1)

    with patched(
        after(vit, "embed_image", lambda tokens, *_: arrays.update({"with_mask.ln_pre": tokens.x})),
        after(vit, "run_block", keep_block),
    ):
        arrays["with_mask"] = masked_image_embeddings(visual, crops, masks)
    return arrays


def check_criterion(case: Case) -> list[Comparison]:
    """Losses, matches and gradients on given predictions."""
    meta = case.meta
    outputs = 1 + sum(bool(re.fullmatch(r"loss_ce_\d+", name)) for name in meta["losses_weighted"])
    layers = [_unit_layer(case, index) for index in range(outputs)]
    targets = [_unit_targets(case, image) for image in range(meta["B"])]
    factors = {name: float(meta["weights"][f"loss_{name}"]) for name in ("ce", "mask", "dice")}
    weights = {f"{ours}_weight": factors[name] for ours, name in (("class", "ce"), ("mask", "mask"), ("dice", "dice"))}
    criterion = MaskLosses(
        matcher=HungarianMatcher(**weights, num_points=0, focal=True),
        **weights,
        no_object_weight=meta["eos_coef"],
        num_points=0,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        focal=True,
    )
    losses = criterion([layers[-1], *layers[:-1]], targets)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    counts = [len(target.classes) for target in targets]
    rows = check_loss_fields(case, losses, total, factors)
    rows.append(compare_equal("targets_per_image", counts, meta.get("targets_per_image", counts)))
    arrays: Arrays = {}
    for index, pair in enumerate(layers):
        norms = torch.stack([part.grad.norm() for part in pair if part.grad is not None])
        arrays |= {f"layer{index}.pred_masks": pair[1], f"layer{index}.grad_norms": norms}
    for image, target in enumerate(targets):
        match = criterion.matcher(layers[-1][0][image], layers[-1][1][image], target)
        arrays[f"match{image}_query"], arrays[f"match{image}_target"] = match
    return rows + case.compare_all(arrays)


def _unit_layer(case: Case, index: int) -> tuple[Tensor, Tensor]:
    """Class logits and mask logits of one layer, leaves of the graph."""
    meta = case.meta
    height, width = meta["mask_hw"]

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        scale = found(rf"N\('{name[:-1]}\S*', ?\([^)]*\), ?([\d.]+)\)", meta["inputs"], "the inputs")[1]
        numbers = stream(meta["seed"], f"unit:{name}").standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(numbers * np.float32(scale))

    logits = normal(f"logits{index}", (meta["B"], meta["Q"], meta["num_classes"] + 1))
    masks = normal(f"masks{index}", (meta["B"], meta["Q"], height // 4, width // 4))
    masks = F.interpolate(masks, size=(height, width), mode="bicubic", align_corners=False)
    return logits.requires_grad_(), masks.requires_grad_()


def _unit_targets(case: Case, image: int) -> MaskTargets:
    classes, masks = stored_masks(case, image, size_of(case.meta["target_hw"]))
    return MaskTargets(classes=classes, masks=masks)


# Word in a case's name -> its check.
UNITS: dict[str, Callable[[Case], list[Comparison]]] = {
    "unit-region": check_regions,
    "unit-clip": check_clip,
    "unit-criterion": check_criterion,
}

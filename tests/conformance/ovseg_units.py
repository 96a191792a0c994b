"""Reference cases of OVSeg's single parts: crops, mask-prompted CLIP, losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conformance.case import Case, Comparison
from conformance.seeded import seeded_image, seeded_state, seeded_tensor, stream
from twostage.clip.loading import load_clip
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.regions.mask_prompt import add_mask_prompts, masked_image_embeddings, visible_patches
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.towers import vit
from twostage.proposals.losses import MaskLosses
from twostage.proposals.matching import HungarianMatcher, MaskTargets

_SIDE = 224
_UNITS = PixelUnits(CLIP_STATISTICS.rounded())
_VISUAL = "clip_adapter.clip_model.visual."


def check_regions(case: Case) -> list[Comparison]:
    """Crops and their masks under several settings."""
    entry = case.meta["image"]
    picture = seeded_image(entry["height"], entry["width"], entry["seed"])
    image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))
    probabilities = torch.from_numpy(case.arrays["mask_u8"]).float() / 255
    rows = []
    for settings in case.meta["sets"]:
        name = settings["set"]
        for key, value in _cut(image, probabilities, settings).items():
            if f"{name}.{key}" in case.names:
                rows.append(case.compare(f"{name}.{key}", value))
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


def unit_masks() -> Tensor:
    """The four masks `[4, 1, 224, 224]` of the CLIP case: columns below 100, a disc, everything, a strip of rows."""
    y, x = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    masks = [x < 100, (y - 120) ** 2 + (x - 90) ** 2 < 3600, torch.ones_like(x, dtype=torch.bool), (y - 50).abs() < 3]
    return torch.stack(masks)[:, None].float()


@torch.no_grad()
def check_clip(case: Case) -> list[Comparison]:
    """The image tower with and without mask prompts."""
    pictures = np.stack([seeded_image(_SIDE, _SIDE, i) for i in range(4)]).transpose(0, 3, 1, 2)
    crops = _UNITS(torch.from_numpy(pictures.astype(np.float32)))
    rows = []
    for settings in case.meta["sets"]:
        name, shape = settings["set"], settings["mask_embedding_shape"]
        seed = case.meta["weight_seed"]
        clip, _ = load_clip(settings["clip"], quick_gelu="on")
        names = {_VISUAL + key: value for key, value in clip.visual.state_dict().items()}
        state = seeded_state(names, seed=seed)
        clip.visual.load_state_dict({key.removeprefix(_VISUAL): value for key, value in state.items()})
        prompts = seeded_tensor(f"{_VISUAL}mask_embedding", shape, seed)
        add_mask_prompts(clip.visual, settings["mask_prompt_depth"], prompts)
        arrays = _recorded_tower(clip.visual, crops, unit_masks())
        rows += [case.compare(f"{name}.{key}", value) for key, value in arrays.items() if f"{name}.{key}" in case.names]
    return rows


def _recorded_tower(visual: Any, crops: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Embeddings with and without masks, and the first tokens and block outputs of the run with masks."""
    arrays: dict[str, Tensor] = {"without_mask": masked_image_embeddings(visual, crops, None)}
    embed, block = vit.embed_image, vit.run_block

    def record_embed(*args: Any) -> Any:
        tokens = embed(*args)
        arrays["with_mask.ln_pre"] = tokens.x
        return tokens

    def record_block(one: Any, x: Tensor) -> Tensor:
        out = block(one, x)
        index = list(visual.transformer.resblocks).index(one)
        arrays[f"with_mask.block{index}_out"] = out.transpose(0, 1)
        return out

    with mock.patch.object(vit, "embed_image", record_embed), mock.patch.object(vit, "run_block", record_block):
        arrays["with_mask"] = masked_image_embeddings(visual, crops, masks)
    return arrays


def check_criterion(case: Case) -> list[Comparison]:
    """Losses, matches and gradients on given predictions."""
    meta = case.meta
    layers = [_unit_layer(case, index) for index in range(len(meta["losses_raw"]) // 3)]
    targets = [_unit_targets(case, image) for image in range(meta["B"])]
    weights = {"class_weight": 1.0, "mask_weight": meta["weights"]["loss_mask"], "dice_weight": 1.0}
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
    torch.stack(list(losses.values())).sum().backward()
    rows = [case.compare_number(name, losses[name].item(), wanted) for name, wanted in meta["losses_weighted"].items()]
    rows.append(case.compare_number("total", sum(loss.item() for loss in losses.values()), meta["total"]))
    for index, pair in enumerate(layers):
        norms = torch.stack([part.grad.norm() for part in pair if part.grad is not None])
        rows.append(case.compare(f"layer{index}.pred_masks", pair[1]))
        rows.append(case.compare(f"layer{index}.grad_norms", norms))
    for image, target in enumerate(targets):
        queries, objects = criterion.matcher(layers[-1][0][image], layers[-1][1][image], target)
        rows.append(case.compare(f"match{image}_query", queries))
        rows.append(case.compare(f"match{image}_target", objects))
    return rows


def _unit_layer(case: Case, index: int) -> tuple[Tensor, Tensor]:
    """Class logits and mask logits of one layer, leaves of the graph."""
    meta = case.meta
    height, width = meta["mask_hw"]

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        numbers = stream(meta["seed"], f"unit:{name}").standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(numbers * np.float32(3))

    logits = normal(f"logits{index}", (meta["B"], meta["Q"], meta["num_classes"] + 1))
    masks = normal(f"masks{index}", (meta["B"], meta["Q"], height // 4, width // 4))
    masks = F.interpolate(masks, size=(height, width), mode="bicubic", align_corners=False)
    return logits.requires_grad_(), masks.requires_grad_()


def _unit_targets(case: Case, image: int) -> MaskTargets:
    height, width = case.meta["target_hw"]
    bits = np.unpackbits(case.arrays[f"target{image}_masks_packed"], axis=1)[:, : height * width]
    masks = torch.from_numpy(bits.reshape(-1, height, width)).bool()
    return MaskTargets(classes=torch.from_numpy(case.arrays[f"target{image}_labels"]), masks=masks)


# Word in a case's name -> its check.
UNITS: dict[str, Callable[[Case], list[Comparison]]] = {
    "unit-region": check_regions,
    "unit-clip": check_clip,
    "unit-criterion": check_criterion,
}

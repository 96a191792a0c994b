"""Runs of OVSeg that keep its intermediates, under the names of the reference cases."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.regions import encoder as region_encoder
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.towers import vit
from twostage.proposals.losses import MaskLosses
from twostage.proposals.matching import HungarianMatcher
from twostage.proposals.position import sine_position_code
from twostage.systems.two_stage.ovseg.model import OVSeg
from twostage.vocabulary import Vocabulary

Arrays = dict[str, Any]
# Blocks of CLIP whose output the cases store.
_BLOCKS = 4


@torch.no_grad()
def recorded_inference(model: OVSeg, image: Tensor, names: Sequence[str], size: tuple[int, int]) -> Arrays:
    """Everything that an inference case stores, and our `label_map` at the output `size`."""
    arrays: Arrays = {}
    with _recording_generator(model, arrays), _recording_regions(arrays):
        images = model.preprocess([{"image": image}])
        words = model.embed_vocabulary(Vocabulary.published(names))
        encoded = model.encode(images)
        prediction = model.decode(encoded, words)
    layers = arrays.pop("layers")
    hs = torch.stack(layers)
    class_embed = model.class_embed(hs)
    classifier = model.classifier(words.text).rows
    grid = (arrays["input_proj"].shape[2], arrays["input_proj"].shape[3])
    arrays |= {
        "backbone_input": images.tensor,
        "pos_embed": sine_position_code(grid, hs.shape[-1], hs.device).T.unflatten(1, grid)[None],
        "decoder_hs": hs,
        "class_embed_out": class_embed,
        "mask_embed_out": model.generator.mask_embed(hs),
        "pred_masks": prediction.mask_logits,
        "mask_prob": encoded.frames.at_image_size(0, prediction.mask_logits[0]).sigmoid(),
        "pred_embeds": class_embed[-1],
        "mask_cls_logits": prediction.class_logits,
        "text_features_with_non_object": classifier / model.logit_scale,
        "semseg_before_resize": prediction.scores(encoded.frames.images)[0],
        "sem_seg": prediction.scores([size])[0],
        "label_map": prediction.label_maps([size])[0],
    }
    arrays["argmax_stride4"] = arrays["sem_seg"].argmax(dim=0)[::4, ::4]
    if encoded.regions is not None:
        valid = encoded.regions.valid[0]
        masks = (arrays["mask_prob"] > model.mask_threshold)[valid]
        arrays |= {
            "valid_flag": valid,
            "valid_boxes_xyxy": mask_boxes(masks),
            "valid_mask_area": masks.flatten(1).sum(dim=1),
            "clip_cls_logits": encoded.regions.embeddings[0][valid] @ classifier.T,
        }
    return arrays


@contextlib.contextmanager
def _recording_generator(model: OVSeg, arrays: Arrays) -> Iterator[None]:
    """Backbone maps, pyramid and decoder layers of one forward pass."""
    generator = model.generator
    decoder, levels = generator.pixel_decoder, len(generator.pixel_decoder.names)

    def keep(name: str, activation: Any = None) -> Any:
        def hook(_module: Any, _inputs: Any, out: Tensor) -> None:
            arrays[name] = out if activation is None else activation(out)

        return hook

    hooks = [
        model.backbone.register_forward_hook(
            lambda _m, _i, out: arrays.update({f"backbone_{name}": value for name, value in out.items()})
        ),
        generator.input_proj.register_forward_hook(keep("input_proj")),
        decoder.register_forward_hook(keep("mask_features")),
    ]
    for level in range(1, levels + 1):
        layer = decoder.get_submodule(f"layer_{level}")
        hooks.append(layer.register_forward_hook(keep(f"pixel_decoder_layer_{level}", F.relu)))
    decode = generator.decode

    def record_decode(coarse: Tensor) -> list[Tensor]:
        arrays["layers"] = decode(coarse)
        return arrays["layers"]

    with mock.patch.object(generator, "decode", record_decode):
        yield
    for hook in hooks:
        hook.remove()


@contextlib.contextmanager
def _recording_regions(arrays: Arrays) -> Iterator[None]:
    """Crops and CLIP tokens; chunks are put together and each mask gets its twin's."""
    chunks: dict[str, list[Tensor]] = defaultdict(list)
    inverse: list[Tensor] = []
    blocks: list[Any] = []
    cut, distinct = Cropper.__call__, region_encoder.distinct_masks
    embed, block, features = vit.embed_image, vit.run_block, region_encoder.masked_image_embeddings

    def record_cut(self: Cropper, *args: Any) -> Any:
        crops = cut(self, *args)
        chunks["clip_crops"].append(crops.images)
        chunks["clip_region_masks"].append(crops.masks)
        return crops

    def record_distinct(masks: Tensor, boxes: Tensor) -> Any:
        which, back = distinct(masks, boxes)
        inverse.append(back)
        return which, back

    def record_features(visual: Any, crops: Tensor, masks: Tensor | None) -> Tensor:
        blocks[:] = list(visual.transformer.resblocks)[:_BLOCKS]
        out = features(visual, crops, masks)
        chunks["clip_image_features_unnormalised"].append(out)
        return out

    def record_embed(*args: Any) -> Any:
        tokens = embed(*args)
        chunks["clip_after_ln_pre"].append(tokens.x)
        return tokens

    def record_block(one: Any, x: Tensor) -> Tensor:
        out = block(one, x)
        if one in blocks:
            chunks[f"clip_block_{blocks.index(one)}_out_LND"].append(out)
        return out

    with (
        mock.patch.object(Cropper, "__call__", record_cut),
        mock.patch.object(region_encoder, "distinct_masks", record_distinct),
        mock.patch.object(region_encoder, "masked_image_embeddings", record_features),
        mock.patch.object(vit, "embed_image", record_embed),
        mock.patch.object(vit, "run_block", record_block),
    ):
        yield
    for name, parts in chunks.items():
        whole = torch.cat(parts)[inverse[0]] if inverse else torch.cat(parts)
        arrays[name] = whole.transpose(0, 1) if name.endswith("LND") else whole


def recorded_training(model: OVSeg, batch: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Arrays]:
    """Losses of a training step, its final predictions and their matches."""
    arrays: Arrays = {}
    call, losses = HungarianMatcher.__call__, MaskLosses.__call__

    def record_call(self: Any, *args: Any) -> Any:
        pair = call(self, *args)
        index = sum(name.endswith("_query") for name in arrays)
        # The final output is matched first.
        if index < len(batch):
            arrays[f"match{index}_query"], arrays[f"match{index}_target"] = pair
        return pair

    def record_losses(self: Any, outputs: Any, targets: Any) -> Any:
        arrays["pred_logits"], arrays["pred_masks"] = outputs[0]
        return losses(self, outputs, targets)

    with (
        mock.patch.object(HungarianMatcher, "__call__", record_call),
        mock.patch.object(MaskLosses, "__call__", record_losses),
    ):
        return model(batch), arrays

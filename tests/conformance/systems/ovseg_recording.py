"""Runs of OVSeg that keep its intermediates, under the names of the reference cases."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conformance.recording import Arrays, Hook, after, hooked, keep, keep_levels, patched
from conformance.training import matches_recorded, outputs_recorded
from twostage.clip.regions import encoder as region_encoder
from twostage.clip.regions.crops import Cropper, mask_boxes
from twostage.clip.towers import vit
from twostage.proposals.position import sine_position_code
from twostage.systems.two_stage.ovseg.model import OVSeg
from twostage.vocabulary import Vocabulary


@torch.no_grad()
def recorded_inference(model: OVSeg, image: Tensor, names: Sequence[str], size: tuple[int, int]) -> Arrays:
    """Everything that an inference case stores, and our `label_map` at the output `size`."""
    arrays: Arrays = {}
    with _recording_generator(model, arrays), _recording_regions(model, arrays):
        images = model.preprocess([{"image": image}])
        words = model.embed_vocabulary(Vocabulary.published(names))
        encoded = model.encode(images)
        prediction = model.decode(encoded, words)
    hs = torch.stack(arrays.pop("layers"))
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
        "mask_prob": encoded.geometry.at_image_size(0, prediction.mask_logits[0]).sigmoid(),
        "pred_embeds": class_embed[-1],
        "mask_cls_logits": prediction.class_logits,
        "text_features_with_non_object": classifier / model.logit_scale,
        "semseg_before_resize": prediction.scores(encoded.geometry.images)[0],
        "sem_seg": prediction.scores([size])[0],
        "label_map": prediction.label_maps([size])[0],
    }
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
    hooks: list[Hook] = [
        (model.backbone, keep_levels(arrays)),
        (generator.input_proj, keep(arrays, "input_proj")),
        (decoder, keep(arrays, "mask_features")),
    ]
    for level in range(1, levels + 1):
        layer = decoder.get_submodule(f"layer_{level}")
        hooks.append((layer, keep(arrays, f"pixel_decoder_layer_{level}", change=F.relu)))
    layers = after(generator, "decode", lambda out, *_: arrays.update(layers=out))
    with hooked(hooks), patched(layers):
        yield


@contextlib.contextmanager
def _recording_regions(model: OVSeg, arrays: Arrays) -> Iterator[None]:
    """Crops and CLIP tokens; chunks are put together and each mask gets its twin's."""
    chunks: dict[str, list[Tensor]] = defaultdict(list)
    inverse: list[Tensor] = []
    blocks = list(model.clip.visual.transformer.resblocks)
    # Text goes through other blocks, and through the same functions.
    running: list[bool] = []
    features = region_encoder.masked_image_embeddings

    def keep_crops(crops: Any, *_: Any) -> None:
        chunks["clip_crops"].append(crops.images)
        chunks["clip_region_masks"].append(crops.masks)

    def record_features(*args: Any) -> Tensor:
        running.append(True)
        out = features(*args)
        running.pop()
        chunks["clip_image_features_unnormalised"].append(out)
        return out

    def keep_block(out: Tensor, block: Any, _x: Tensor) -> None:
        # Cases store the first blocks; keeping all of a large tower would take gigabytes.
        if running and block in blocks[:4]:
            chunks[f"clip_block_{blocks.index(block)}_out_LND"].append(out)

    with patched(
        after(Cropper, "__call__", keep_crops),
        after(region_encoder, "distinct_masks", lambda out, *_: inverse.append(out[1])),
        (region_encoder, "masked_image_embeddings", record_features),
        after(vit, "embed_image", lambda tokens, *_: chunks["clip_after_ln_pre"].append(tokens.x)),
        after(vit, "run_block", keep_block),
    ):
        yield
    for name, parts in chunks.items():
        whole = torch.cat(parts)[inverse[0]] if inverse else torch.cat(parts)
        arrays[name] = whole.transpose(0, 1) if name.endswith("LND") else whole


def recorded_training(model: OVSeg, batch: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Arrays]:
    """Losses of a training step, its final predictions and their matches."""
    arrays: Arrays = {}

    def keep_match(count: int, pair: tuple[Tensor, Tensor]) -> None:
        # The final output is matched first.
        if count < len(batch):
            arrays[f"match{count}_query"], arrays[f"match{count}_target"] = pair

    with patched(matches_recorded(keep_match), outputs_recorded(arrays, [("pred_logits", "pred_masks")])):
        return model(batch), arrays

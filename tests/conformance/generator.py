"""Intermediates of Mask2Former's generator, which SCAN shares, and the official keys that its systems have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conformance.recording import Arrays, Hook, after, hooked, keep, keep_input, keep_levels, patched
from conformance.settings import Table, free, only, to
from twostage.proposals.deformable_attention import reference_points
from twostage.proposals.generator import MaskGenerator
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.position import sine_position_code

# Swin's keys, as in Mask2Former and MaskFormer alike.
SWIN_KEYS: Table = {
    "MODEL.SWIN.EMBED_DIM": to("MODEL.SWIN.EMBED_DIM"),
    "MODEL.SWIN.DEPTHS": to("MODEL.SWIN.DEPTHS"),
    "MODEL.SWIN.NUM_HEADS": to("MODEL.SWIN.HEADS"),
    "MODEL.SWIN.WINDOW_SIZE": to("MODEL.SWIN.WINDOW_SIZE"),
    "MODEL.SWIN.DROP_PATH_RATE": to("MODEL.SWIN.DROP_PATH_RATE"),
    "MODEL.SWIN.OUT_FEATURES": to("MODEL.SWIN.OUT_FEATURES"),
    "MODEL.SWIN.PRETRAIN_IMG_SIZE": free,
    "MODEL.SWIN.USE_CHECKPOINT": free,
    "MODEL.SWIN.PATCH_SIZE": only(4),
    "MODEL.SWIN.MLP_RATIO": only(4.0, 4),
    "MODEL.SWIN.QKV_BIAS": only(True),
    "MODEL.SWIN.QK_SCALE": only(None),
    "MODEL.SWIN.DROP_RATE": only(0.0, 0),
    "MODEL.SWIN.ATTN_DROP_RATE": only(0.0, 0),
    "MODEL.SWIN.APE": only(False),
    "MODEL.SWIN.PATCH_NORM": only(True),
}
LOSS_KEYS: Table = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": to("MODEL.MASK_LOSS.CLASS_WEIGHT"),
    "MODEL.MASK_FORMER.MASK_WEIGHT": to("MODEL.MASK_LOSS.MASK_WEIGHT"),
    "MODEL.MASK_FORMER.DICE_WEIGHT": to("MODEL.MASK_LOSS.DICE_WEIGHT"),
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": to("MODEL.MASK_LOSS.NO_OBJECT_WEIGHT"),
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": to("MODEL.MASK_LOSS.NUM_POINTS"),
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": to("MODEL.MASK_LOSS.OVERSAMPLE_RATIO"),
    "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": to("MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO"),
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": only(True),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": only(1.0, 1),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": only(255),
}
# Mask2Former's keys but for the number of classes, which systems with a text classifier do not have.
GENERATOR_KEYS: Table = {
    **SWIN_KEYS,
    **LOSS_KEYS,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": to("MODEL.MASK2FORMER.NUM_QUERIES"),
    "MODEL.MASK_FORMER.HIDDEN_DIM": to("MODEL.MASK2FORMER.WIDTH"),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": to("MODEL.MASK2FORMER.WIDTH"),
    "MODEL.SEM_SEG_HEAD.MASK_DIM": to("MODEL.MASK2FORMER.MASK_WIDTH"),
    "MODEL.MASK_FORMER.NHEADS": to("MODEL.MASK2FORMER.HEADS"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": to("MODEL.MASK2FORMER.HEADS"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": to("MODEL.MASK2FORMER.POINTS"),
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": to("MODEL.MASK2FORMER.ENCODER_LAYERS"),
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": to("MODEL.MASK2FORMER.DECODER_HIDDEN"),
    # The published figure counts the predictions, of which the first comes before any layer.
    "MODEL.MASK_FORMER.DEC_LAYERS": to("MODEL.MASK2FORMER.DECODER_LAYERS", convert=lambda n: int(n) - 1),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": to("MODEL.MASK2FORMER.SIZE_DIVISIBILITY"),
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": to("TEST.PANOPTIC_SCORE"),
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": to("TEST.PANOPTIC_OVERLAP"),
    # What output there is tells `resizing`.
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": free,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": free,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON": free,
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": free,
    "TEST.DETECTIONS_PER_IMAGE": to("TEST.DETECTIONS_PER_IMAGE"),
    # The masked decoder has no dropout, and there are no encoder layers beside the pixel decoder's.
    "MODEL.MASK_FORMER.DROPOUT": free,
    "MODEL.MASK_FORMER.ENC_LAYERS": free,
    "MODEL.MASK_FORMER.PRE_NORM": only(False),
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": only(False),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": only(4),
    "MODEL.SEM_SEG_HEAD.NORM": only("GN"),
}


def switched_on(settings: Any, default: bool, *outputs: str) -> bool:
    """Whether one of the `outputs` of `MODEL.MASK_FORMER.TEST` is on; `default` is that of a key that the case leaves."""
    return any(str(settings.get(f"MODEL.MASK_FORMER.TEST.{name}", default)) == "True" for name in outputs)


def resizing(settings: Any, default: bool) -> list[str]:
    """Overrides of ours for a case that says which outputs there are: class scores are resized instead of masks where neither
    panoptic nor instance output is on. A case that says nothing is run as our config says by itself.

    Args:
        default: whether an output is on that the case leaves out while it says another.
    """
    names = ("PANOPTIC_ON", "INSTANCE_ON", "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE")
    if not any(f"MODEL.MASK_FORMER.TEST.{name}" in settings for name in names):
        return []
    early = str(settings.get("MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", False)) == "True"
    resizes_scores = not (early or switched_on(settings, default, "PANOPTIC_ON", "INSTANCE_ON"))
    return ["MODEL.MASK2FORMER.RESIZE_SCORES", str(resizes_scores)]


@contextlib.contextmanager
def recording_generator(
    generator: MaskGenerator, class_logits: Callable[[Tensor], Tensor], arrays: Arrays
) -> Iterator[None]:
    """Keep the generator's intermediates of one inference pass in `arrays`, under the names of the cases.

    Args:
        class_logits: from queries `[B, Q, C]` to class logits, for the predictions after every layer.
    """
    decoder = generator.decoder
    stages: list[tuple[Tensor, Tensor]] = []
    mask_recorder = after(
        MaskedDecoder, "attention_mask", lambda allowed, _decoder, queries, *_: stages.append((queries, ~allowed[0]))
    )
    with hooked(_generator_hooks(generator, arrays)), patched(mask_recorder):
        yield
    for index, (queries, _) in enumerate(stages):
        arrays[f"aux{index}_pred_logits"] = class_logits(queries)
        arrays[f"aux{index}_pred_masks"] = decoder.with_masks(queries, arrays["mask_features"]).mask_logits
        arrays[f"attn_mask_{index}"] = stages[index][1].float()
    arrays["attn_mask_true_fraction"] = np.array([float(masked.float().mean()) for _, masked in stages])


def _generator_hooks(generator: MaskGenerator, arrays: Arrays) -> list[Hook]:
    pixels, decoder = generator.pixel_decoder, generator.decoder
    hooks: list[Hook] = [
        (generator.backbone, keep_levels(arrays)),
        *((m, keep(arrays, f"pix_input_proj_{i}")) for i, m in enumerate(pixels.input_proj)),
        *((m, keep(arrays, f"enc{i}_out")) for i, m in enumerate(pixels.layers)),
        (pixels.lateral, keep(arrays, "fpn_lateral", change=torch.clone)),
        (pixels.output, keep(arrays, "fpn_out")),
        (pixels.mask_features, keep(arrays, "mask_features")),
    ]
    for i, encoder in enumerate(pixels.layers):
        attention: Any = encoder.attention
        hooks += [
            (attention.sampling_offsets, keep(arrays, f"enc{i}_sampling_offsets")),
            (attention.attention_weights, keep(arrays, f"enc{i}_attention_logits")),
            (attention.output_proj, keep_input(arrays, f"enc{i}_deform_core")),
            (attention, keep(arrays, f"enc{i}_self_attn")),
            (attention, lambda args, _o: arrays.update(_positions(args[2], args[0].shape[-1]))),
        ]
    first_query = {"change": lambda x: x.transpose(0, 1)}
    for i, layer in enumerate(decoder.layers):
        hooks += [
            (layer.get_submodule("cross_attention"), keep(arrays, f"dec{i}_cross_attn", **first_query)),
            (layer.get_submodule("self_attention"), keep(arrays, f"dec{i}_self_attn", **first_query)),
            (layer, keep(arrays, f"dec{i}_out", **first_query)),
        ]
    return hooks


def _positions(levels: Sequence[tuple[int, int]], width: int) -> Arrays:
    """Reference points of the encoder's tokens, and the position codes of each level."""
    cpu = torch.device("cpu")
    codes = {
        f"pix_pos_res{5 - i}": sine_position_code(grid, width, cpu).T.unflatten(1, grid)[None]
        for i, grid in enumerate(levels)
    }
    return {"enc_reference_points": reference_points(levels, cpu), **codes}

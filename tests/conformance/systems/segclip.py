"""Runs SegCLIP as a reference case says and compares what the case stores."""

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
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.inputs import as_stored, picture
from conformance.proxy import use_templates
from conformance.recording import Arrays, Hook, hooked, keep, keep_input
from conformance.settings import case_config
from conformance.systems.segclip_training import check_training
from conformance.weights import seeded_model
from twostage.data.augmentation import ResizeWithin
from twostage.data.mapper import to_tensor
from twostage.errors import UserError
from twostage.systems.one_stage.segclip.model import SegCLIP
from twostage.systems.one_stage.segclip.zero_shot import add_background, group_affinities
from twostage.vocabulary import Vocabulary

SYSTEMS = ("SegCLIP", "segclip")


def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a SegCLIP case with ours."""
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses" in case.meta:
        return check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case)


def _config(case: Case) -> CfgNode:
    """Our config with the case's windows, threshold and layout of keys."""
    meta = case.meta
    opts = ["MODEL.SEGCLIP.MIX_BATCH", str("reinterpreted" in meta.get("key_layout", ""))]
    if centres := re.search(r"(\d+) cent(?:re|er)s", meta.get("variant", "")):
        opts += ["MODEL.SEGCLIP.NUM_CENTRES", centres[1]]
    crop, stride = meta.get("crop"), meta.get("stride")
    if meta.get("mode", "slide") == "whole" or crop is None:
        opts += ["TEST.SLIDING.ENABLED", "False"]
    else:
        opts += ["TEST.SLIDING.TILE", str(_side(crop)), "TEST.SLIDING.STRIDE", str(_side(stride or crop))]
    # Without a background there is nothing to compare with the threshold.
    opts += ["MODEL.SEGCLIP.BACKGROUND_THRESHOLD", str(meta.get("bg_thresh") or 0.0)]
    return case_config("segclip_vitb", opts)


def _side(value: Any) -> int:
    sides = set(value) if isinstance(value, list) else {value}
    if len(sides) != 1:
        raise UserError(f"SegCLIP's windows are square here, not {value!r}")
    return int(sides.pop())


def _resized(pixels: np.ndarray, feeding: str) -> np.ndarray:
    """The picture as the case feeds it: as it is, or to a short edge by OpenCV's rule."""
    if feeding.startswith("no resize"):
        return pixels
    short = re.search(r"short edge (\d+)", feeding)
    long = re.search(r"min\((\d+)/long", feeding)
    if short is None:
        raise UserError(f"SegCLIP case is fed in an unknown way: {feeding!r}")
    resize = ResizeWithin(long=int(long[1]) if long else 2048, short=int(short[1]))
    return resize.get_transform(pixels).apply_image(pixels)


@torch.no_grad()
def _check_inference(model: SegCLIP, case: Case) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    pixels = picture(meta["image"])
    size = (pixels.shape[0], pixels.shape[1])
    pixels = arrays["image_resized"] = _resized(pixels, meta["feeding"])
    use_templates(model, meta["templates"])
    names = Vocabulary.published(meta["classes"])
    with _recording(model) as recorded:
        images = model.preprocess([{"image": to_tensor(pixels)}])
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
    }
    for name in ("argmax", "argmax_4"):
        arrays[name] = as_stored(case, name, scores.argmax(dim=0))
    case.told("template_set", "eval_mode", "mode", "crop", "stride", "bg_thresh")
    rows = case.compare_all(arrays)
    if "with_background" in meta:
        rows.append(compare_equal("with_background", words.background, meta["with_background"]))
    if meta.get("windows_y1x1y2x2") is not None:
        rows.append(compare_equal("windows", _windows(encoded.windows[0].grid), meta["windows_y1x1y2x2"]))
    # The label map that evaluation uses must say the same as the full scores.
    return [*rows, compare_labels("label_map", labels, scores.argmax(dim=0))]


def _windows(grid: Any) -> list[list[int]]:
    """Upper left and lower right corner of every window."""
    height, width = grid.tile
    return [[y, x, y + height, x + width] for y in grid.tops for x in grid.lefts]


def _window_arrays(model: SegCLIP, encoded: Any, words: Any, recorded: Arrays) -> Arrays:
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
    arrays: Arrays = {}
    for index, owners in enumerate(windows.owners):
        arrays |= {f"w{index}_{name}": value[index : index + 1] for name, value in whole.items()}
        arrays[f"w{index}_window_logits"] = affinities[index][owners].permute(2, 0, 1)[None]
        arrays[f"w{index}_group_logits"] = model.scale * F.normalize(encoding.groups[index], dim=-1) @ words.text.T
    return arrays


@contextlib.contextmanager
def _recording(model: SegCLIP) -> Iterator[Arrays]:
    """Intermediates of the image encoder, under the names of the cases; of several passes the last."""
    visual, layer = model.clip.visual, model.semantic_layer
    recorded: Arrays = {}

    def keep_groups(args: Any, _out: Tensor) -> None:
        # The groups behind CLIP's last block: what the projection's norm sees, but for the image token.
        recorded["layers2"] = args[0][:, 1:]

    hooks: list[Hook] = [
        (visual.ln_pre, keep(recorded, "ln_pre")),
        (visual.ln_post, keep(recorded, "ln_post")),
        (visual.ln_post, keep_groups),
        (layer.query_norm, keep(recorded, "centre_query")),
        (layer.key_norm, keep(recorded, "centre_keys")),
        (layer, keep_input(recorded, "layers0")),
    ]
    with hooked(hooks):
        yield recorded

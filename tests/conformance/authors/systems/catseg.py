"""CAT-Seg's code."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from conformance.authors.contract import Authors, Request
from conformance.authors.random_text import no_text

_FILES = {"ViT-B-16": "configs/vitb_384.yaml", "ViT-L-14-336": "configs/vitl_336.yaml"}


class CATSeg(Authors):
    """https://github.com/cvlab-kaist/CAT-Seg (v2)"""

    repository = "cvlab-kaist/CAT-Seg"
    package = "cat_seg"
    requires = {"timm": "timm", "einops": "einops", "ftfy": "ftfy", "regex": "regex", "open_clip": "open_clip_torch"}

    def build(self, request: Request) -> nn.Module:
        from cat_seg.cat_seg_model import CATSeg as Theirs
        from cat_seg.config import add_cat_seg_config
        from cat_seg.modeling.transformer.cat_seg_predictor import CATSegPredictor
        from cat_seg.third_party import clip

        # Registers their head.
        importlib.import_module("cat_seg.modeling")
        cfg = request.config(request.variant(_FILES), add_cat_seg_config)
        head, keys = cfg.MODEL.SEM_SEG_HEAD, request.cfg.MODEL.CATSEG
        head.TRAIN_CLASS_JSON = head.TEST_CLASS_JSON = str(request.code / "datasets" / "coco.json")
        head.POOLING_SIZES = [keys.POOLING if request.training_classes else keys.TEST_POOLING] * 2
        cfg.TEST.SLIDING_WINDOW = request.cfg.TEST.SLIDING.ENABLED
        network = _clip(request.ours.clip)
        with mock.patch.object(clip, "load", lambda *_, **__: (network, None)), no_text(CATSegPredictor):
            return Theirs(cfg)

    def set_words(self, model: Any, names: Sequence[str], text: Tensor | None) -> None:
        predictor = model.sem_seg_head.predictor
        predictor.cache = text
        if text is None:
            # Made on a GPU where they are missing.
            clip = importlib.import_module("cat_seg.third_party.clip")
            predictor.tokens = torch.cat(
                [clip.tokenize([template.format(name) for template in predictor.prompt_templates]) for name in names]
            )


def _clip(ours: Any) -> nn.Module:
    """Their network of OpenAI's CLIP, of the sizes of ours; they read it off the downloaded weights."""
    from cat_seg.third_party.model_vpt import CLIP

    visual = ours.visual
    width, _, patch, _ = visual.conv1.weight.shape
    cells = round((visual.positional_embedding.shape[0] - 1) ** 0.5)
    text_width = ours.ln_final.weight.shape[0]
    return CLIP(
        ours.text_projection.shape[1], cells * patch, len(visual.transformer.resblocks), width, patch,
        ours.positional_embedding.shape[0], ours.token_embedding.weight.shape[0],
        text_width, text_width // 64, len(ours.transformer.resblocks),
    ).eval()  # fmt: skip


AUTHORS = CATSeg()

"""ERR-Seg's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conformance.authors.contract import Authors, Request
from conformance.authors.random_clip import random_clip
from conformance.authors.random_text import no_text

_FILES = {"convnext_base_w_320": "configs/convnextB_640.yaml", "convnext_large_d_320": "configs/convnextL_640.yaml"}


class ERRSeg(Authors):
    """https://github.com/lchen1019/ERR-Seg, which brings its own open_clip."""

    repository = "lchen1019/ERR-Seg"
    package = "err_seg"
    requires = {"timm": "timm", "einops": "einops", "ftfy": "ftfy", "regex": "regex"}
    folders = ("open_clip/src",)

    def build(self, request: Request) -> nn.Module:
        from err_seg.config import add_err_seg_config
        from err_seg.err_seg_model import ERRSeg as Theirs
        from err_seg.modeling.heads.err_seg_head import ERRSEGHead
        from err_seg.modeling.modules import decoder

        # They count votes by `histc` on integers, which torch has on GPUs only.
        decoder.torch = _FloatHistograms()
        cfg = request.config(request.variant(_FILES), add_err_seg_config)
        head, keys = cfg.MODEL.SEM_SEG_HEAD, request.cfg.MODEL.ERRSEG
        head.TRAIN_CLASS_JSON = head.TEST_CLASS_JSON = str(request.code / "datasets" / "coco.json")
        training = request.training_classes
        head.SAMPLE_CLASSES_NUM = keys.SLOTS if training else keys.TEST_SLOTS
        cfg.INPUT.CROP.SIZE = [keys.RESOLUTION if training else keys.TEST_RESOLUTION] * 2
        with random_clip(), no_text(ERRSEGHead):
            return Theirs(cfg)

    def set_words(self, model: Any, names: Sequence[str], text: Tensor | None) -> None:
        head = model.sem_seg_head
        head.cache = text
        if text is None:
            # Made on a GPU where they are missing.
            head.tokens = torch.cat(
                [head.tokenizer([template.format(name) for template in head.prompt_templates]) for name in names]
            )


class _FloatHistograms:
    """torch, whose `histc` takes integers as floats; they are exact up to 2^24."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def histc(values: Tensor, **more: Any) -> Tensor:
        return torch.histc(values.float(), **more)


AUTHORS = ERRSeg()

"""SED's code."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from conformance.authors.contract import Authors, Request
from conformance.authors.random_clip import random_clip
from conformance.authors.random_text import no_text

_FILES = {"convnext_base_w_320": "configs/convnextB_768.yaml", "convnext_large_d_320": "configs/convnextL_768.yaml"}


class SED(Authors):
    """https://github.com/xb534/SED, which brings its own open_clip."""

    repository = "xb534/SED"
    package = "sed"
    requires = {"timm": "timm", "einops": "einops", "ftfy": "ftfy", "regex": "regex"}
    folders = ("open_clip/src",)

    def build(self, request: Request) -> nn.Module:
        from sed.config import add_sed_config
        from sed.modeling.transformer.sed_predictor import SEDPredictor
        from sed.sed_model import SED as Theirs

        # Registers their backbone and head.
        importlib.import_module("sed.modeling")
        cfg = request.config(request.variant(_FILES), add_sed_config)
        head, keys = cfg.MODEL.SEM_SEG_HEAD, request.cfg.MODEL.SED
        head.TRAIN_CLASS_JSON = head.TEST_CLASS_JSON = str(request.code / "datasets" / "coco.json")
        head.POOLING_SIZES = [keys.TRAIN_POOLING if request.training_classes else keys.TEST_POOLING] * 2
        with random_clip(), no_text(SEDPredictor):
            model = Theirs(cfg)
        # Fixed in their code.
        model.clip_resolution = (keys.RESOLUTION, keys.RESOLUTION)
        return model

    def set_words(self, model: Any, names: Sequence[str], text: Tensor) -> None:
        predictor = model.sem_seg_head.predictor
        predictor.text_features = predictor.text_features_test = text


AUTHORS = SED()

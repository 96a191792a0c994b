"""SAN's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from conformance.authors.contract import Authors, Request
from conformance.authors.random_clip import random_clip

_FILES = {
    "ViT-B-16": "configs/san_clip_vit_res4_coco.yaml",
    "ViT-L-14-336": "configs/san_clip_vit_large_res4_coco.yaml",
}


class SAN(Authors):
    """https://github.com/MendelXu/SAN"""

    repository = "MendelXu/SAN"
    package = "san"
    requires = {"open_clip": "open_clip_torch==2.16.0", "timm": "timm", "scipy": "scipy"}
    empty = {"wandb": "their trainer logs to it"}

    def build(self, request: Request) -> nn.Module:
        from san.config import add_san_config
        from san.model.san import SAN as Theirs

        cfg = request.config(request.variant(_FILES), add_san_config)
        if request.training_classes:
            cfg.MODEL.SAN.NUM_CLASSES = request.training_classes
        with random_clip():
            return Theirs(cfg)

    def set_words(self, model: Any, names: Sequence[str], text: Tensor) -> None:
        # Where their classifier keeps the embeddings of words it has met.
        model.ov_classifier.cache = dict(zip(names, text, strict=True))


AUTHORS = SAN()

"""FC-CLIP's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from torch import nn

from conformance.authors.contract import Authors, Request
from conformance.authors.random_clip import random_clip
from conformance.authors.systems.mask2former import DEFORMABLE, semantic_only

_FOLDER = "configs/coco/panoptic-segmentation/fcclip"
_FILES = {
    "convnext_large_d_320": f"{_FOLDER}/fcclip_convnext_large_eval_ade20k.yaml",
    "RN50": f"{_FOLDER}/fcclip_convnext_large_eval_ade20k_r50.yaml",
}
# Their model reads names from a dataset when it is built; its words are set afterwards.
_DATASET = "twostage_beside_authors"


class FCCLIP(Authors):
    """https://github.com/bytedance/fc-clip"""

    repository = "bytedance/fc-clip"
    package = "fcclip"
    requires = {"scipy": "scipy", "open_clip": "open_clip_torch"}
    empty = DEFORMABLE

    def build(self, request: Request) -> nn.Module:
        from detectron2.projects.deeplab import add_deeplab_config
        from fcclip.config import add_fcclip_config, add_maskformer2_config
        from fcclip.fcclip import FCCLIP as Theirs

        cfg = request.config(request.variant(_FILES), add_deeplab_config, add_maskformer2_config, add_fcclip_config)
        semantic_only(cfg)
        MetadataCatalog.get(_DATASET).stuff_classes = ["thing"]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (_DATASET,)
        if request.training_classes:
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = request.training_classes
        with random_clip():
            return Theirs(cfg)

    def set_words(self, model: Any, names: Sequence[str], text: Any) -> None:
        templates = [1] * len(names)
        model.train_text_classifier = model.test_text_classifier = text.names
        model.train_num_templates = model.test_num_templates = templates
        model.category_overlapping_mask = text.seen.long()


AUTHORS = FCCLIP()

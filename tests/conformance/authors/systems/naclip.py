"""NACLIP's code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from conformance.authors.contract import Authors, Request
from twostage.errors import UserError

# As their preprocessor is told.
_MEAN, _STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)


class NACLIP(Authors):
    """https://github.com/sinahmr/NACLIP, whose modules lie in the repository's own folder."""

    repository = "sinahmr/NACLIP"
    package = "prompts"
    requires = {"ftfy": "ftfy", "regex": "regex", "packaging": "packaging"}
    folders = (".",)

    def build(self, request: Request) -> nn.Module:
        keys = request.cfg.MODEL.TRAINING_FREE
        if request.training_classes or request.cfg.MODEL.CLIP.NAME != "ViT-B-16":
            raise UserError(
                "of NACLIP the comparison knows ViT-B-16 in evaluation; leave out --training and the override"
            )
        _stand_ins()
        clip = importlib.import_module("clip")
        network = clip.CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12).eval()
        # One name is embedded when it is built, whose embedding is replaced.
        text = mock.patch.object(clip.CLIP, "encode_text", lambda _self, tokens: torch.ones(len(tokens), 512))
        with TemporaryDirectory() as folder, mock.patch.object(clip, "load", lambda *_, **__: (network, None)), text:
            names = Path(folder) / "names.txt"
            names.write_text("thing\n", encoding="utf-8")
            model = importlib.import_module("naclip").NACLIP(
                "ViT-B/16", str(names), device=torch.device("cpu"), pamr_steps=keys.PAMR_STEPS
            )
        return _Fed(model)

    def weights(self, model: Any) -> nn.Module:
        return model.theirs.net

    def set_words(self, model: Any, names: Sequence[str], text: Any) -> None:
        theirs = model.theirs
        theirs.query_features, theirs.query_idx, theirs.num_queries = text.rows, text.classes, len(text.rows)


class _Fed(nn.Module):
    """Their model behind Detectron2's interface, with the normalisation that mmseg does for it."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs = theirs
        self.mean, self.std = torch.tensor(_MEAN).view(-1, 1, 1), torch.tensor(_STD).view(-1, 1, 1)

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        (entry,) = batch
        found: dict[str, Any] = {}
        sample = SimpleNamespace(metainfo={"ori_shape": (entry["height"], entry["width"])}, set_data=found.update)
        self.theirs.predict(((entry["image"] - self.mean) / self.std)[None], [sample])
        return [{"sem_seg": found["seg_logits"].data, "labels": found["pred_sem_seg"].data[0]}]


def _stand_ins() -> None:
    """What their model takes from mmseg and mmengine: a base class, of which nothing runs, a registry and a holder.

    Their CLIP reads `packaging` through `pkg_resources`, which setuptools has dropped.
    """

    class BaseSegmentor(nn.Module):
        def __init__(self, data_preprocessor: Any) -> None:
            super().__init__()

    registry = SimpleNamespace(register_module=lambda: lambda model: model)
    modules: dict[str, dict[str, Any]] = {
        "mmengine": {},
        "mmengine.structures": {"PixelData": SimpleNamespace},
        "mmseg": {},
        "mmseg.models": {},
        "mmseg.models.data_preprocessor": {"SegDataPreProcessor": lambda **_: None},
        "mmseg.models.segmentors": {"BaseSegmentor": BaseSegmentor},
        "mmseg.registry": {"MODELS": registry},
        "pkg_resources": {"packaging": importlib.import_module("packaging")},
    }
    importlib.import_module("packaging.version")
    for name, content in modules.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        vars(module).update({key: value for key, value in content.items() if key not in vars(module)})


AUTHORS = NACLIP()

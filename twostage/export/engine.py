"""A system that runs from its ONNX files, with everything around the network as it is: sizes, words, label maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor
from yaml import YAMLError

from twostage.api import Segmenter
from twostage.clip.statistics import Pictures
from twostage.config import default_config
from twostage.errors import UserError
from twostage.export.form import Form
from twostage.export.forms import form_of
from twostage.export.session import Session
from twostage.export.text_tower import OnnxTextEmbedder
from twostage.predictions.outputs import OutputSettings
from twostage.predictions.prediction import Prediction
from twostage.segmenter import OpenVocabularySegmenter

# Of a network's metadata, what running it needs.
_ENTRIES = ("config", "form", "pixel_mean", "pixel_std", "size_divisibility", "reads_padding")


def text_file(path: Path) -> Path:
    """Where the text tower of the file `path` lies: beside it.

    >>> text_file(Path("out/san.onnx")).name
    'san.text.onnx'
    """
    return path.with_name(f"{path.stem}.text.onnx")


class OnnxSystem(OpenVocabularySegmenter[Pictures, Any]):
    """A system whose network and text tower are ONNX files."""

    def __init__(self, *, session: Session, text: OnnxTextEmbedder, form: Form, cfg: CfgNode) -> None:
        super().__init__(
            clip=None,
            text=text,
            pixel_mean=session.about["pixel_mean"],
            pixel_std=session.about["pixel_std"],
            size_divisibility=session.about["size_divisibility"],
            outputs=OutputSettings.from_config(cfg),
        )
        self.session = session
        self.form = form
        self.cfg = cfg

    def embed_vocabulary(self, vocabulary: Any) -> Any:
        return self.form.text(self.text, vocabulary, self.cfg, self.session.about["form"])

    def encode(self, images: Pictures) -> Pictures:
        """The pictures themselves: a file computes everything at once."""
        return images

    def decode(self, encoded: Pictures, text: Any) -> Prediction:
        words = dict(zip(self.form.inputs, self.form.tensors(text), strict=True))
        outputs = []
        for index in range(len(encoded)):
            outputs.append(self.session({"image": self._fed(encoded, index), **words}))
        return self.form.prediction(outputs, encoded, text, self.cfg, self.session.about["form"])

    def decode_rivalled(self, encoded: Pictures, text: Any) -> Prediction:
        """Without the thresholds that turn a pixel into background, whichever word is its best."""
        prediction = self.decode(encoded, text)
        if self.form.kind != "names":
            return prediction
        named: Any = prediction
        rule = dataclasses.replace(named.rule, probability_threshold=0.0, area_threshold=0.0)
        return dataclasses.replace(named, rule=rule)

    def _fed(self, images: Pictures, index: int) -> Tensor:
        """Picture `index` `[1, 3, H, W]`: padded where the system pads, else alone."""
        if self.session.about["reads_padding"]:
            return images.tensor[index : index + 1]
        return images[index][None]


def load_onnx(path: str | Path, *, runtime: str = "onnxruntime", threads: int = 0) -> Segmenter:
    """The segmenter of a file that `twostage export` wrote, with its text tower beside it.

    Raises:
        UserError: a file is missing, damaged or another's, or the extra "export" is not installed.
    """
    path = Path(path)
    session = Session(path, runtime=runtime, threads=threads)
    if "merges" in session.about:
        raise UserError(f"'{path}' is a text tower; give the network's file, whose name lacks '.text'")
    session.require(_ENTRIES)
    cfg = default_config()
    try:
        # Keys that came later have their defaults.
        cfg.merge_from_other_cfg(CfgNode.load_cfg(session.about["config"]))
    except (KeyError, ValueError, AttributeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"'{path}' holds a config of another version ({reason}); export it again") from error
    form = form_of(cfg)
    text = OnnxTextEmbedder.of_file(text_file(path), cfg, form.embedder_options())
    if text.tower_hash != session.about.get("text_tower", text.tower_hash):
        raise UserError(
            f"'{text_file(path)}' is another system's text tower than that of '{path}'; the two files of one export belong "
            "together"
        )
    return Segmenter(OnnxSystem(session=session, text=text, form=form, cfg=cfg), cfg)

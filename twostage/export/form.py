"""What a system's ONNX file takes and gives, and how its outputs become the prediction that the system itself makes.

Files hold everything with weights: pictures (normalised and padded) and words in, and what a prediction resizes out. What
follows (resizes, thresholds, label maps in strips) stays outside, so that a file works for any output size.

Legend: C classes, N names (synonyms apart), P prompt templates, D embedding size, Q masks, V views of a picture, h x w a grid.
"""

from __future__ import annotations

import abc
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.statistics import Pictures
from twostage.clip.text import TextEmbedder
from twostage.predictions.prediction import Prediction
from twostage.vocabulary import Vocabulary

# Why `Form.fixed_by` may be.
TILED = "sliding windows have another number of tiles for every size"


class Form(abc.ABC):
    """One kind of file.

    Attributes:
        kind: how other programs tell it ("masks", "dense" or "names"; see `docs/export.md`).
        inputs: names of the text inputs; the number of classes or names is their first axis.
        outputs: names of the outputs.
        text_rows: what a row of the text input is: a class, a class with all its templates, or a name.
        pads_inside: whether the network itself adds the padding that its masks are made with.
        strays: share of all pixels whose scores rounding may change by more than rounding, since the network decides something
            for each of them.
    """

    kind: str
    inputs: tuple[str, ...] = ("text",)
    outputs: tuple[str, ...]
    text_rows: str = "class"
    pads_inside: bool = False
    strays: float = 0.0

    def check(self, model: Any, cfg: CfgNode) -> None:
        """Raises UserError where the config asks for something that files do not hold."""
        return None

    def fixed_by(self, cfg: CfgNode) -> str:
        """Why pictures must have the size that the network is traced with; "" where they need not."""
        return ""

    def about(self, model: Any, cfg: CfgNode) -> dict[str, Any]:
        """What is needed behind the outputs, for the metadata.

        In every form `canvas` is what maps are resized to before they are cut to the picture's size in the network, None where
        they go straight to the output: `multiple` of (height, width) that the picture fills up to, on both sides where
        `centred`; `sigmoid_at_output` tells whether sigmoids come behind the resize to the output.
        """
        return {"canvas": None, "sigmoid_at_output": False}

    def outside(self, model: Any, cfg: CfgNode) -> list[str]:
        """What comes behind the outputs that simple programs can't do, in words."""
        return []

    def reads_padding(self, cfg: CfgNode) -> bool:
        """Whether the network sees the zeros that bring a picture to a multiple of a size."""
        return True

    def rows(self, cfg: CfgNode) -> str:
        """`text_rows` of this config."""
        return self.text_rows

    def embedder_options(self) -> dict[str, Any]:
        """Of `TextEmbedder.from_config`."""
        return {"per_template": self.text_rows == "templates"}

    def text(self, embedder: TextEmbedder, vocabulary: Vocabulary, cfg: CfgNode, about: dict[str, Any]) -> Any:
        """What the system's `embed_vocabulary` returns."""
        return embedder(vocabulary)

    def tensors(self, text: Any) -> tuple[Tensor, ...]:
        """The text inputs, in the order of `inputs`."""
        return (text,)

    def words(self, *tensors: Tensor) -> Any:
        """The system's text from the inputs, while a network is traced."""
        return tensors[0]

    @abc.abstractmethod
    def run(self, model: Any, images: Pictures, text: Any) -> tuple[Tensor, ...]:
        """The outputs for one picture, from the system."""

    @abc.abstractmethod
    def prediction(
        self, outputs: list[tuple[Tensor, ...]], images: Pictures, text: Any, cfg: CfgNode, about: dict[str, Any]
    ) -> Prediction:
        """The system's prediction, from the outputs of every picture."""

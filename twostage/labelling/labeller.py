"""One picklable thing that labels pictures: rows in, rows out. Both engines run it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from twostage import __version__
from twostage.api import Segmentation, Segmenter, build_from_config
from twostage.checkpoint.fingerprint import weights_sha256
from twostage.config import load_config
from twostage.contrast.choice import Others
from twostage.errors import UserError
from twostage.labelling.units import Item
from twostage.pictures import read_ahead
from twostage.results.mean_scores import mean_scores
from twostage.results.saving import label_map_png
from twostage.results.shapes import box, rle
from twostage.vocabulary import Vocabulary

# Letters of a hash that rows carry.
_HASH = 16


@dataclasses.dataclass
class Labeller:
    """Labels pictures with the same words. Loads its system on first use, in the process that runs it.

    Attributes:
        config_file, opts: of the system.
        words: names.
        others, min_score: as `Segmenter` takes them; `others` are words, no "auto" or "few".
        with_maps: rows also hold the label map as PNG.
        ahead, readers: pictures that are decoded in the meantime, and by how many threads.
    """

    config_file: str
    opts: Sequence[str]
    words: tuple[str, ...]
    others: tuple[str, ...] = ()
    min_score: float | None = None
    with_maps: bool = False
    ahead: int = 8
    readers: int = 2
    _segmenter: Segmenter | None = dataclasses.field(default=None, repr=False, compare=False)
    _model: str = dataclasses.field(default="", repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_segmenter": None, "_model": ""}

    @property
    def segmenter(self) -> Segmenter:
        """The loaded system."""
        if self._segmenter is None:
            cfg = load_config(self.config_file, list(self.opts))
            self._segmenter = Segmenter(build_from_config(cfg), cfg)
            # Only what is frozen is read from the cache of text embeddings on disk.
            self._segmenter.model.requires_grad_(False)
        return self._segmenter

    @property
    def model(self) -> str:
        """A hash of the system: its architecture, its sizes, its weights."""
        if not self._model:
            cfg = self.segmenter.cfg.clone()
            cfg.defrost()
            # What says where and on what it runs, not what it does.
            cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.CLIP.TEXT_CACHE = "", "", ""
            settings = repr((cfg.MODEL.dump(), cfg.INPUT.dump(), cfg.TEST.dump()))
            digest = hashlib.sha256(f"{settings}{weights_sha256(self.segmenter.model)}".encode())
            self._model = digest.hexdigest()[:_HASH]
        return self._model

    @property
    def vocabulary(self) -> str:
        """A hash of what is asked for: words, contrast words, the least score."""
        asked = json.dumps([self.words, self.others, self.min_score])
        return hashlib.sha256(asked.encode()).hexdigest()[:_HASH]

    def about(self) -> dict[str, Any]:
        """What rows have in common."""
        return {"model": self.model, "vocabulary": self.vocabulary, "names": list(self.words), "twostage": __version__}

    def embed(self) -> None:
        """Embed all words, so that they lie in the cache for everybody else."""
        # Loaded before: what is made in inference mode can't be told apart by its version.
        model = self.segmenter.model
        with torch.inference_mode():
            model.embed_vocabulary(Vocabulary(self.words))
            if self.others:
                model.embed_vocabulary(Vocabulary((*self.words, *self.others)))

    def __call__(self, items: Iterable[Item]) -> Iterator[dict[str, Any]]:
        """A row per picture, in order.

        `path`, `height`, `width`, `model`, `vocabulary`, `error` (why there is no label, else ""), `segments`: per name in the
        picture, largest first, `name`, `label` (its index), `score` (mean over the segment of the system's score for it, on a
        grid of at most 128 cells a side), `area` (pixels), `box` (x, y, width, height), `counts` (COCO's compressed run
        lengths); with `with_maps` `label_map` (PNG).
        """
        # Words that can't be asked for are no picture's fault.
        self.embed()
        waiting: list[Item] = []

        def pictures() -> Iterator[Any]:
            for item in items:
                waiting.append(item)
                yield item.picture

        others: Others = list(self.others) or None
        for _, pixels in read_ahead(pictures(), count=self.ahead, workers=self.readers):
            item = waiting.pop(0)
            if item.reason or isinstance(pixels, UserError):
                yield self._row(item.name, None, item.reason or str(pixels))
                continue
            result = self.segmenter(pixels, Vocabulary(self.words), others=others, min_score=self.min_score)
            yield self._row(item.name, result, "")

    def _row(self, name: str, result: Segmentation | None, error: str) -> dict[str, Any]:
        height, width = (0, 0) if result is None else result.labels.shape
        row = {
            "path": _as_text(name),
            "height": int(height),
            "width": int(width),
            "model": self.model,
            "vocabulary": self.vocabulary,
            "error": _as_text(error),
            "segments": [] if result is None else segments(result),
        }
        if self.with_maps:
            row["label_map"] = None if result is None else label_map_png(result.labels, result.names)
        return row


def _as_text(name: str) -> str:
    """A name with the bytes that are no UTF-8 written out: files may have such names, tables can't hold them.

    >>> print(_as_text(f"caf{chr(0xDCE9)}.png"))
    caf\\udce9.png
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def segments(result: Segmentation) -> list[dict[str, Any]]:
    """What `Labeller` says of every name in a picture."""
    counts = np.bincount(result.labels[result.labels >= 0], minlength=len(result.names))
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    scores = mean_scores(result, order)
    found = []
    for label in order:
        mask = result.labels == label
        found.append(
            {
                "name": result.names[label],
                "label": label,
                "score": scores[label],
                "area": int(counts[label]),
                "box": list(box(mask)),
                "counts": rle(mask)["counts"],
            }
        )
    return found

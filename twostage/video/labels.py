"""Labels of frames, one after the other, with or without a memory of the scores before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from twostage.api import Segmenter
from twostage.contrast.choice import Others
from twostage.predictions.prediction import UNLABELLED
from twostage.results.segmentation import Segmentation
from twostage.vocabulary import Vocabulary


def label_frames(
    segmenter: Segmenter,
    pictures: Iterable[np.ndarray],
    vocabulary: Vocabulary,
    *,
    others: Others = None,
    smooth: float = 0.0,
) -> Iterator[Segmentation]:
    """A result per picture uint8 RGB `[H, W, 3]`.

    Args:
        smooth: share of the scores that comes from the frames before: s_t = smooth * s_(t-1) + (1 - smooth) * scores_t, and
            the best name of s_t is the label. 0 labels every frame by itself. Holds one map per word.
    """
    rivals = list(segmenter.competitors(vocabulary, others)) or None
    memory: Tensor | None = None
    for pixels in pictures:
        result = segmenter(pixels, vocabulary, others=rivals)
        if smooth:
            with torch.inference_mode():
                scores = result.scores()
                # A cut to another size forgets.
                fits = memory is not None and memory.shape == scores.shape
                memory = scores if memory is None or not fits else smooth * memory + (1 - smooth) * scores
                best = memory.argmax(dim=0).cpu().numpy()
            result = dataclasses.replace(result, labels=np.where(result.labels < 0, UNLABELLED, best))
        yield result


def flicker(maps: Iterable[np.ndarray]) -> float:
    """Share of pixels whose label is another than in the frame before, over all frames but the first."""
    before: np.ndarray | None = None
    changed = total = 0
    for labels in maps:
        if before is not None and before.shape == labels.shape:
            changed += int((before != labels).sum())
            total += labels.size
        before = labels
    return changed / total if total else 0.0

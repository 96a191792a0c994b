"""A system behind the page: loaded when it is first needed, asked one at a time, and quick about pictures that it has seen.

A picture's features are kept (`_KEPT` of them per system), so that other words for it cost no second look at the picture.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from twostage.api import EncodedImage, Segmenter
from twostage.contrast.choice import Others
from twostage.results.segmentation import Segmentation
from twostage.vocabulary import Vocabulary
from twostage.web.limits import Upload

# Features of a large picture take tens of megabytes.
_KEPT = 4

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What a system says of a picture, and how long that took.

    Attributes:
        system: its name on the page.
        result: which word each pixel shows.
        picture_ms: milliseconds for the picture, 0.0 where its features were kept.
        words_ms: milliseconds for the words.
    """

    system: str
    result: Segmentation
    picture_ms: float
    words_ms: float


class Served:
    """One system with a queue of its own: requests are answered in the order in which they came."""

    def __init__(self, name: str, load: Callable[[], Segmenter]) -> None:
        """
        Args:
            name: on the page.
            load: makes the system; called once, by the first request.
        """
        self.name = name
        self._load = load
        self._segmenter: Segmenter | None = None
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()
        self._queue = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    def answer(self, upload: Upload, words: Vocabulary, others: Others) -> Answer:
        """What the picture shows of `words`; see `Segmenter.__call__`. Waits for its turn.

        Raises:
            UserError: of weights, picture or words.
        """
        return self._queue.submit(self._answer, upload, words, others).result()

    def in_turn(self, work: Callable[[], T]) -> T:
        """What `work` returns, done in this system's queue: a prediction computes scores only when asked for them."""
        return self._queue.submit(work).result()

    def close(self) -> None:
        """Drop what waits, and end the queue's thread."""
        self._queue.shutdown(wait=True, cancel_futures=True)

    def _answer(self, upload: Upload, words: Vocabulary, others: Others) -> Answer:
        if self._segmenter is None:
            self._segmenter = self._load()
        start = time.perf_counter()
        encoded = self._kept.pop(upload.key, None)
        was_kept = encoded is not None
        if encoded is None:
            encoded = self._segmenter.encode(upload.pixels())
        self._kept[upload.key] = encoded
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        seen = time.perf_counter()
        result = self._segmenter(encoded, words, others=others)
        return Answer(
            system=self.name,
            result=result,
            picture_ms=0.0 if was_kept else 1e3 * (seen - start),
            words_ms=1e3 * (time.perf_counter() - seen),
        )

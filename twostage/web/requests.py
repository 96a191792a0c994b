"""What the page and scripts ask: a picture, words, and how; answered by the chosen systems."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twostage.contrast.choice import Others
from twostage.errors import UserError, near_names
from twostage.vocabulary import Vocabulary
from twostage.web.limits import parse_words, read_upload
from twostage.web.served import Answer, Served
from twostage.web.viewer import object_layer, view, word_layer

# What the page calls the ways in which other words compete.
AUTOMATIC, NOTHING, OWN = "automatic", "nothing", "words of mine"
NO_SECOND = "no other"
_STEM = "segmentation"
# Folders of files to take away that are kept; more than are ever being made at once.
_RESULTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One question, as the page's fields hold it.

    Attributes:
        picture: where the uploaded file is; None without one.
        words: names separated by commas; scripts may send a list (`parse_words`), here and below, or null for nothing.
        system: name of a served system.
        mode: `AUTOMATIC`, `NOTHING` or `OWN`.
        others: the words of `OWN`.
        things: words that come as objects to be told apart; "" for none.
    """

    picture: str | None
    words: str | list | None
    system: str
    mode: str = AUTOMATIC
    others: str | list | None = ""
    things: str | list | None = ""

    @property
    def told_apart(self) -> bool:
        """Whether objects are asked for."""
        return bool(self.things.strip() if isinstance(self.things, str) else self.things)


class Desk:
    """Takes requests to the systems that they name.

    Attributes:
        systems: by name.
        folder: for files that exist as long as the page.
    """

    def __init__(self, systems: Sequence[Served]) -> None:
        self.systems = {served.name: served for served in systems}
        self._own = tempfile.TemporaryDirectory(prefix="twostage-web-")
        self.folder = Path(self._own.name)
        self._results: deque[Path] = deque()

    def answer(self, request: Request) -> Answer:
        """What the system of `request` says. Raises UserError for anything wrong in it."""
        if request.system not in self.systems:
            near = near_names(request.system, self.systems)
            raise UserError(f"no system {request.system!r} is served here{near}; there are: {', '.join(self.systems)}")
        # All that can be wrong is looked at before the request waits for its turn.
        words, others = parse_words(request.words), _others(request)
        _check_things(request, words)
        return self.systems[request.system].answer(read_upload(request.picture), words, others)

    def view(self, request: Request) -> str:
        """HTML of the answer, for the page."""
        answer = self.answer(request)
        if not request.told_apart:
            return view(answer, word_layer(answer))
        things = parse_words(request.things, "objects").names
        layer = self.systems[request.system].in_turn(lambda: object_layer(answer, things))
        return view(answer, layer)

    def files(self, request: Request) -> list[str]:
        """The answer as files to take away: overlay, label map and COCO's json; with `things`, segments too."""
        answer = self.answer(request)
        folder = self._result_folder()
        paths = answer.result.save(folder, _STEM, format=("png", "coco"))
        if request.told_apart:
            things = parse_words(request.things, "objects").names
            served = self.systems[request.system]
            paths += served.in_turn(lambda: answer.result.panoptic(things)).save(folder, _STEM)
        return [str(path) for path in paths]

    def told(self, request: Request) -> dict[str, Any]:
        """The answer for a script: `Segmentation.to_dict`, with the system and the two times in milliseconds."""
        answer = self.answer(request)
        times = {"picture_ms": round(answer.picture_ms, 1), "words_ms": round(answer.words_ms, 1)}
        return {"system": answer.system, **times, **answer.result.to_dict()}

    def close(self) -> None:
        """End the queues of all systems and delete what the page has written."""
        for served in self.systems.values():
            served.close()
        self._own.cleanup()

    def _result_folder(self) -> Path:
        """A new folder; the oldest of many are deleted, from which the page has copied its files long ago."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self._results.append(folder)
        if len(self._results) > _RESULTS:
            shutil.rmtree(self._results.popleft(), ignore_errors=True)
        return folder


def _others(request: Request) -> Others:
    if request.mode == OWN:
        return parse_words(request.others, "other words").names
    modes: dict[str, Others] = {AUTOMATIC: "few", NOTHING: None}
    if request.mode not in modes:
        raise UserError(f"what competes is {request.mode!r}; it is one of: {', '.join((*modes, OWN))}")
    return modes[request.mode]


def _check_things(request: Request, words: Vocabulary) -> None:
    if not request.told_apart:
        return
    for name in parse_words(request.things, "objects").names:
        if name not in words.names:
            raise UserError(f"{name!r} is to be told apart, but is not among the words{near_names(name, words.names)}")

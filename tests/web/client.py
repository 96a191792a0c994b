"""A script that asks the page over plain HTTP, as Gradio's client does, but light enough to be started 32 times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import requests


class AskError(Exception):
    """The page answered with an error; its message."""


class Client:
    """One session with the page at `address`."""

    def __init__(self, address: str) -> None:
        self._root = f"{address.rstrip('/')}/gradio_api"
        self._session = requests.Session()
        self._session.trust_env = False

    def upload(self, picture: Path) -> dict[str, Any]:
        """Send a file; returns what stands for it in requests."""
        with picture.open("rb") as file:
            answer = self._session.post(f"{self._root}/upload", files={"files": file}, timeout=60)
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": picture.name, "meta": {"_type": "gradio.FileData"}}

    def segment(self, picture: dict[str, Any] | None, words: str, system: str, *more: str) -> dict[str, Any]:
        """The answer of `/segment`. `more`: what competes, own words that do, objects. Raises AskError."""
        data = [picture, words, system, *more, *("automatic", "", "")[len(more) :]]
        posted = self._session.post(f"{self._root}/call/segment", json={"data": data}, timeout=60)
        posted.raise_for_status()
        stream = self._session.get(f"{self._root}/call/segment/{posted.json()['event_id']}", stream=True, timeout=300)
        kind = ""
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind in ("complete", "error"):
                told = json.loads(line.removeprefix("data: "))
                if kind == "error":
                    raise AskError(told["error"] if isinstance(told, dict) else str(told))
                return told[0]
        raise AskError("the answer ended early")

    def get(self, path: str) -> requests.Response:
        """Any path of the server."""
        return self._session.get(f"{self._root.removesuffix('/gradio_api')}{path}", timeout=60)

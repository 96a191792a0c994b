"""A machine-learning backend for Label Studio: a small server of our own that answers with brush masks.

`python -m twostage.adapters.label_studio --system san_vitb --weights official --port 9090`, then in the project's settings
under "Model" add http://localhost:9090. The labelling configuration needs an Image and BrushLabels; the labels are the words.
For pictures that were uploaded, set LABEL_STUDIO_URL (http://localhost:8080) and LABEL_STUDIO_API_KEY (an access token).
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

import numpy as np

from twostage import __version__
from twostage.adapters.label_studio_pictures import Origin, read_picture
from twostage.api import Segmenter, load
from twostage.commands.parser import Parser
from twostage.errors import UserError, run_cli
from twostage.results.mean_scores import mean_scores

# Bits of the lengths that runs may have, in Label Studio's format.
_RUN_BITS = (3, 4, 8, 16)
_LARGEST_REQUEST = 64 * 2**20


def brush_rle(mask: np.ndarray) -> list[int]:
    """Label Studio's run lengths of a bool mask `[H, W]`, which it holds as RGBA: a stream of bits as bytes.

    It says how many numbers there are (32 bits), how long each is and which four lengths runs may have, then per run: whether
    all its numbers are one, which of the four lengths its own has, that length less one, and the number.
    """
    values = mask.flatten()
    edges = np.flatnonzero(np.diff(values)) + 1
    starts = np.concatenate([[0], edges])
    lengths = np.diff(np.concatenate([starts, [values.size]])) * 4
    bits = [f"{4 * values.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _RUN_BITS)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        number = "11111111" if values[start] else "00000000"
        while length:
            run = min(length, 2 ** _RUN_BITS[-1])
            which = next(i for i, size in enumerate(_RUN_BITS) if run <= 2**size)
            bits.append(f"1{which:02b}{run - 1:0{_RUN_BITS[which]}b}{number}")
            length -= run
    stream = "".join(bits)
    stream += "0" * (-len(stream) % 8)
    return list(int(stream, 2).to_bytes(len(stream) // 8, "big"))


def mask_of(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """bool `[H, W]` of Label Studio's run lengths."""
    stream = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        place += bits
        return int(stream[place - bits : place], 2)

    total, width = read(32), read(5) + 1
    run_bits = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        alike = read(1)
        end = at + 1 + read(run_bits[read(2)])
        values[at:end] = read(width) if alike else [read(width) for _ in range(end - at)]
        at = end
    return values.reshape(*size, 4)[..., 3] > 0


class Backend:
    """Answers Label Studio's requests; pictures are segmented one at a time."""

    def __init__(self, segmenter: Segmenter, name: str, origin: Origin | None = None) -> None:
        """`origin` is where uploads lie, by default what the environment says."""
        self.segmenter = segmenter
        self.origin = origin or Origin.from_environment()
        self.version = f"twostage {__version__} {name}"
        self._lock = Lock()

    def answer(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to `/`, `/health`, `/setup` or `/predict`.

        Raises:
            UserError: another path, a configuration without an Image and BrushLabels, or tasks that are none.
        """
        if path in ("/", "/health"):
            return {"status": "UP", "model_class": "twostage"}
        if path == "/setup":
            return {"model_version": self.version}
        if path != "/predict":
            raise UserError(f"there is no {path}; there are: /health, /setup, /predict")
        if not isinstance(request, dict) or not isinstance(tasks := request.get("tasks", []), list):
            raise UserError("the request must be an object with 'label_config' and a list 'tasks'")
        image, brush, names = parse_configuration(str(request.get("label_config", "")))
        return {"results": [self._predict(task, image, brush, names) for task in tasks]}

    def _predict(self, task: dict[str, Any], image: tuple[str, str], brush: str, names: list[str]) -> dict[str, Any]:
        name, field = image
        with self._lock:
            result = self.segmenter(read_picture(_address(task, field), self.origin), names)
        height, width = result.labels.shape
        indices = [result.names.index(found) for found in result.areas()]
        scores = mean_scores(result, indices)
        entries = [
            {
                "from_name": brush,
                "to_name": name,
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": scores[index],
                "value": {
                    "format": "rle",
                    "rle": brush_rle(result.labels == index),
                    # As the configuration spells it, "sofa,couch" for our "sofa, couch".
                    "brushlabels": [names[index]],
                },
            }
            for index in indices
        ]
        return {"result": entries, "model_version": self.version, "score": min(scores.values(), default=0.0)}


def parse_configuration(text: str) -> tuple[tuple[str, str], str, list[str]]:
    """Of a labelling configuration: the Image's name and the task's field, the BrushLabels' name, and the labels.

    Raises:
        UserError: no XML, or one of them is missing.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"the labelling configuration is no XML ({error})") from error
    image, brush = root.find(".//Image"), root.find(".//BrushLabels")
    names = [label.get("value", "") for label in root.iterfind(".//BrushLabels/Label")]
    if image is None or brush is None or not names:
        raise UserError(
            "the labelling configuration needs an Image and BrushLabels with Labels, whose values are the words"
        )
    return (image.get("name", ""), image.get("value", "").lstrip("$")), brush.get("name", ""), names


def _address(task: Any, field: str) -> str:
    data = task.get("data") if isinstance(task, dict) else None
    address = data.get(field) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise UserError(f"a task has no picture in its field {field!r}, which the configuration's Image names")
    return address


def serve(backend: Backend, host: str, port: int) -> ThreadingHTTPServer:
    """A server that answers by `backend`; whoever calls runs its `serve_forever`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if length > _LARGEST_REQUEST:
                self._send(413, {"error": "the request is too large"})
                return
            try:
                self._reply(json.loads(self.rfile.read(length) or b"{}"))
            except json.JSONDecodeError as error:
                self._send(400, {"error": f"the request is no JSON ({error})"})

        def _reply(self, request: dict[str, Any]) -> None:
            try:
                self._send(200, backend.answer(urllib.parse.urlsplit(self.path).path, request))
            except UserError as error:
                self._send(400, {"error": str(error)})

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a line per picture tells nobody anything."""

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    """Load the system and serve until the end."""
    parser = Parser(__doc__)
    parser.add_argument("--system", required=True, metavar="SYSTEM")
    parser.add_argument("--weights", metavar="NAME_OR_FILE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    args = parser.parse_args()
    backend = Backend(load(args.system, weights=args.weights), Path(args.system).stem)
    server = serve(backend, args.host, args.port)
    print(f"Label Studio's backend is http://{args.host}:{server.server_port}; Ctrl+C ends it", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    run_cli(main)

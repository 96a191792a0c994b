"""A file server on the loopback address that misbehaves on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Server(ThreadingHTTPServer):
    """Serves `content` under every path but those in `pages`.

    Attributes:
        content: of the file.
        tag: its ETag; "" to send none.
        ranges: whether ranges are honoured.
        cuts: after how many bytes each of the next answers breaks off.
        announce: a false length, 0 for the true one.
        drip: seconds between single bytes, 0 for all at once.
        status: status codes of the next answers.
        redirects: path -> (address, further headers).
        pages: path -> an HTML page.
        requests: what was asked: path, Range, Authorization.
        pace: seconds before the content is sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag, self.ranges = b"", '"1"', True
        self.cuts: list[int] = []
        self.status: list[int] = []
        self.announce, self.drip, self.pace = 0, 0.0, 0.0
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.pages: dict[str, str] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing: tests look at `requests`."""

    def do_GET(self) -> None:
        site, path = self.server, urlsplit(self.path).path
        site.requests.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        if path in site.redirects:
            target, headers = site.redirects[path]
            self._head(302, {"Location": target, "Content-Length": "0", **headers})
        elif path in site.pages and "confirm" not in parse_qs(urlsplit(self.path).query):
            page = site.pages[path].encode()
            self._head(200, {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(page))})
            self.wfile.write(page)
        elif site.status and (status := site.status.pop(0)) != 200:
            self._head(status, {"Content-Length": "0"})
        else:
            self._send_file()

    def _send_file(self) -> None:
        site, start = self.server, 0
        asked = self.headers["Range"]
        if asked and site.ranges and self.headers["If-Range"] in (None, site.tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        rest, total = site.content[start:], len(site.content)
        headers = {"ETag": site.tag} if site.tag else {}
        if start >= total > 0:
            self._head(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
            return
        headers["Content-Length"] = str(site.announce or len(rest))
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._head(206 if start else 200, headers)
        time.sleep(site.pace)
        self._send(rest[: site.cuts.pop(0)] if site.cuts else rest)

    def _send(self, content: bytes) -> None:
        try:
            for i in range(0, len(content), 1 if self.server.drip else max(1, len(content))):
                self.wfile.write(content[i : i + 1] if self.server.drip else content)
                time.sleep(self.server.drip)
        except OSError:
            pass  # the client has had enough
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """A server that runs within the block."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()

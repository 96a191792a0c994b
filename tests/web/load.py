"""Many clients at once: the right answer to everybody, and a server whose memory stays flat.

python tests/web/load.py --clients 32 --requests 200

Starts `tools/serve.py` with toybox/maskclip, sends pictures of toybox with words of each client's own, and compares every
answer with what the system says in this process. Prints requests a second, the slowest one, and the server's memory after each
fifth of them.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
SYSTEM = "toybox/maskclip"
_PARTS = 5


class Outcome(NamedTuple):
    """Of a load: wrong answers, seconds in all, the slowest request, and the server's resident MiB along the way."""

    wrong: list[str]
    seconds: float
    slowest: float
    memory: list[float]


def questions(folder: Path) -> list[tuple[Path, str]]:
    """Pictures and words, all different."""
    from twostage.web.examples import toybox_examples

    pictures = toybox_examples(folder)
    lists = [words.split(", ") for _, words in pictures]
    return [
        (Path(path), ", ".join(words[: 2 + shift])) for path, _ in pictures for words in lists for shift in range(3)
    ]


def expected(asked: Sequence[tuple[Path, str]]) -> list[dict[str, Any]]:
    """What the system says in this process."""
    import twostage

    segmenter = twostage.load(SYSTEM, device="cpu")
    return [segmenter(path, words.split(", ")).to_dict() for path, words in asked]


def put_under_load(
    address: str,
    process: int,
    asked: Sequence[tuple[Path, str]],
    right: Sequence[dict[str, Any]],
    *,
    clients: int,
    total: int,
) -> Outcome:
    """Ask `total` questions from `clients` threads."""
    from web.client import Client

    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(total):
        numbers.put(number)
    wrong: list[str] = []
    memory, taken = [resident(process)], []

    def work(mine: int) -> None:
        client = Client(address)
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            which = (7 * number + mine) % len(asked)
            start = time.monotonic()
            try:
                told = client.segment(client.upload(asked[which][0]), asked[which][1], SYSTEM)
            except Exception as error:
                wrong.append(f"{number}: {type(error).__name__} {error}")
                continue
            taken.append(time.monotonic() - start)
            if any(told[key] != value for key, value in right[which].items()):
                wrong.append(f"{number}: another answer")
            if len(taken) % max(1, total // _PARTS) == 0:
                memory.append(resident(process))

    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Outcome(wrong, time.monotonic() - start, max(taken, default=0.0), memory)


def resident(process: int) -> float:
    """Memory of a process in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Run the load; 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = questions(Path(folder))
        right = expected(asked)
        server = [
            sys.executable,
            str(ROOT / "tools" / "serve.py"),
            "--system",
            SYSTEM,
            "--port",
            "0",
            "--device",
            "cpu",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            address = next(line.split()[1] for line in process.stdout if line.startswith("open "))
            # The first requests load the system and embed the contrast words.
            put_under_load(address, process.pid, asked, right, clients=4, total=2 * len(asked))
            outcome = put_under_load(address, process.pid, asked, right, clients=args.clients, total=args.requests)
            process.send_signal(signal.SIGINT)
    print(
        f"{args.requests} requests of {args.clients} clients: {args.requests / outcome.seconds:.1f} a second, slowest "
        f"{outcome.slowest:.1f} s, {len(outcome.wrong)} wrong"
    )
    print(f"resident MiB: {', '.join(f'{value:.0f}' for value in outcome.memory)}")
    print("\n".join(outcome.wrong[:10]))
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())

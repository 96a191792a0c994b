"""The quickest reference cases under `python -O`, on one and two threads, and in two processes at once; see `README.md`.

python -m robustness.conditions
"""

from __future__ import annotations

import os
import subprocess
import sys

from tabulate import tabulate

from robustness.forked import ROOT

_CASES = (
    "catseg/public-prompts",
    "ovseg/public-unit-criterion",
    "ovseg/public-unit-region",
    "sed/public-decoder-cer",
    "trainingfree/public-attention-variants",
)
# Name -> (flags of Python, threads, processes at once).
_CONDITIONS = {
    "python -O": (("-O",), 1, 1),
    "OMP_NUM_THREADS=1": ((), 1, 1),
    "OMP_NUM_THREADS=2": ((), 2, 1),
    "two processes": ((), 1, 2),
}


def _start(flags: tuple[str, ...], threads: int) -> subprocess.Popen[str]:
    cases = [str(ROOT / "tests" / "conformance" / "cases" / f"{name}.json") for name in _CASES]
    command = [sys.executable, *flags, str(ROOT / "tools" / "check_reference.py"), "--failed-only", *cases]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> None:
    """Run and print the table; exit code 1 where a case does not match."""
    rows, failed = [], []
    for name, (flags, threads, processes) in _CONDITIONS.items():
        running = [_start(flags, threads) for _ in range(processes)]
        texts = [process.communicate()[0] for process in running]
        good = sum(process.returncode == 0 for process in running)
        rows.append([name, len(_CASES) * processes, f"{good} of {processes}"])
        failed += [text for process, text in zip(running, texts, strict=True) if process.returncode != 0]
        print(tabulate(rows[-1:], tablefmt="plain"), flush=True)
    print(tabulate(rows, headers=["condition", "cases", "runs in which all match"], tablefmt="github"))
    for text in failed:
        print(text[-3000:])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

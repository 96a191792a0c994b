"""Bad inputs over all doors, counted; see `README.md`.

python -m robustness.campaign --output output/robustness
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from robustness.doors import caches, checkpoints, configs, journals, labels, pictures, words
from robustness.trial import Door, Outcome, run_door

# The doors, and their share of the inputs.
DOORS: tuple[tuple[Door, float], ...] = (
    (pictures.DOOR, 0.2),
    (labels.DOOR, 0.1),
    (words.DOOR, 0.15),
    (configs.YAML_DOOR, 0.08),
    (configs.OVERRIDE_DOOR, 0.5),
    (checkpoints.DOOR, 0.3),
    (caches.DOOR, 0.05),
    (journals.DOOR, 0.07),
)
VERDICTS = ("error", "right", "wrong")


def run(*, seed: int, count: int, folder: Path, only: Sequence[str] = ()) -> list[Outcome]:
    """About `count` inputs over all doors, or over those named."""
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    for door, share in DOORS:
        if not only or door.name in only:
            outcomes += run_door(door, seed=seed, count=max(4, round(share * count)), folder=folder)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Counts per door, in Markdown."""
    doors = list(dict.fromkeys(outcome.door for outcome in outcomes))
    rows = []
    for name in [*doors, "all"]:
        counts = collections.Counter(o.verdict for o in outcomes if name in (o.door, "all"))
        rows.append([name, counts.total(), *(counts[verdict] for verdict in VERDICTS)])
    return tabulate(rows, headers=["door", "tried", "clear error", "right result", "wrong"], tablefmt="github")


def main() -> None:
    """Run, print and write the table; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--doors", nargs="+", default=[], choices=[door.name for door, _ in DOORS])
    parser.add_argument("--output", type=Path, help="folder for table.md and outcomes.json")
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder:
        outcomes = run(seed=args.seed, count=args.count, folder=Path(folder), only=args.doors)
    text = f"{table(outcomes)}\n\nseed {args.seed}, {time.monotonic() - start:.0f} s"
    print(text)
    wrong = [outcome for outcome in outcomes if outcome.verdict == "wrong"]
    for outcome in wrong:
        print(f"WRONG {outcome.door}: {outcome.trial}: {outcome.detail}")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "table.md").write_text(text + "\n")
        (args.output / "outcomes.json").write_text(json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""What `tools/benchmark_runtimes.py` does."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from twostage.api import Segmenter, build_from_config
from twostage.benchmark.cost import median
from twostage.benchmark.turns import ratio, take_turns
from twostage.data.toybox.words import CLASSES
from twostage.export.comparison import toybox_pictures
from twostage.export.engine import load_onnx
from twostage.export.session import RUNTIMES
from twostage.vocabulary import Vocabulary


def run_from_arguments(args: argparse.Namespace) -> None:
    """The command; see the tool. Raises UserError for files that `twostage export` has not written."""
    torch.set_num_threads(args.threads)
    pictures = [np.kron(p, np.ones((args.scale, args.scale, 1), np.uint8)) for p in toybox_pictures(args.pictures)]
    vocabulary = Vocabulary(tuple(CLASSES[: args.classes]))
    rows = []
    for path in args.files:
        for row in compare_runtimes(path, args.weights, pictures, vocabulary, args.threads, args.repeats):
            rows.append([path.stem, *row])
    headers = ["file", "runtime", "ms", "ms of processor", "time / torch's", "labels as torch's"]
    print(tabulate(rows, headers=headers, floatfmt=".1f"))


def compare_runtimes(
    path: Path, weights: str, pictures: Sequence[np.ndarray], vocabulary: Vocabulary, threads: int, repeats: int
) -> list[list[Any]]:
    """Rows of a table: runtime, milliseconds on the clock and of processor time, ratio to torch's time, equal labels."""
    installed = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    files = {name: load_onnx(path, runtime=name, threads=threads) for name in installed}
    cfg = next(iter(files.values())).cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    contenders = {"torch": Segmenter(build_from_config(cfg), cfg), **files}
    # Also warms everybody up.
    labels = {name: [own(p, vocabulary, others=None).labels for p in pictures] for name, own in contenders.items()}
    steps = [_steps(own, pictures, vocabulary) for own in contenders.values()]
    costs = [[cost for step in turns.values() for cost in step] for turns in take_turns(steps, repeats)]
    rows = []
    for name, own in zip(contenders, costs, strict=True):
        cost = median(own)
        same = np.mean([(a == b).mean() for a, b in zip(labels["torch"], labels[name], strict=True)])
        rows.append(
            [name, 1000 * cost.wall, 1000 * cost.processor, ratio(costs[0], own, "wall"), f"{100 * same:.3f} %"]
        )
    return rows


def _steps(
    segmenter: Segmenter, pictures: Sequence[np.ndarray], vocabulary: Vocabulary
) -> Mapping[str, Callable[[], Any]]:
    """A step per picture, by its number."""
    return {
        str(index): lambda picture=picture: segmenter(picture, vocabulary, others=None)  # type: ignore[misc]
        for index, picture in enumerate(pictures)
    }

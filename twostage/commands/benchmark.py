"""Where a system's time goes, as ratios in one run; see `tools/benchmark.py`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from twostage.api import build_from_config
from twostage.benchmark.arithmetic import best_rate, operations
from twostage.benchmark.cost import added_memory, median, peak_bytes
from twostage.benchmark.ratios import regressions, store
from twostage.benchmark.steps import NAMES, Steps, named_parts, skip_text_tower, system_steps
from twostage.benchmark.training import training_steps
from twostage.benchmark.turns import ratio, take_turns
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.files import write_text

_HEADERS = (
    "trunk s", "encode s", "decode s", "label map s", "whole s", "whole / trunk", "text, first s", "peak GiB"
)  # fmt: skip
_MIB = 2**20
# Of the figures that `_shown` gives.
_FORMATS = (".3f", ".3f", ",.0f", ",.0f")


def run_from_arguments(args: argparse.Namespace) -> None:
    """Time what the arguments ask for, print the tables, write and check what was asked for.

    Raises:
        UserError: options that contradict each other, or anything wrong in a config or a file of ratios.
    """
    if "whole" not in args.steps:
        raise UserError(f"--steps {' '.join(args.steps)} leaves out the whole, which ratios are of; add it")
    contenders = _contenders(args)
    configs = [_config(config, opts, random_text=args.random_text) for _, config, opts in contenders]
    models = [_build(cfg, random_text=args.random_text) for cfg in configs]
    labels = [label for label, _, _ in contenders]
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *parse_size(args.size)), dtype=torch.uint8, generator=noise)
    rows = []
    with torch.inference_mode(not args.training):
        for classes in args.classes:
            if args.training:
                systems = [
                    training_steps(
                        model, parse_size(args.size), args.training, classes,
                        recompute=cfg.SOLVER.ACTIVATION_CHECKPOINTING,
                    )
                    for model, cfg in zip(models, configs, strict=True)
                ]  # fmt: skip
            else:
                systems = [system_steps(model, image, parse_size(args.output_size), classes) for model in models]
            for steps in systems:
                for name in set(steps.runs) - set(args.steps):
                    del steps.runs[name]
            rows.append(_measure(classes, labels, systems, args.repeats))
    if len(models) == 2:
        ratios = _print_pair(rows, labels)
    else:
        precision = models[0].precision or torch.float32
        rate = best_rate(precision, next(models[0].parameters()).device)
        ratios = _print_single(rows, rate, random_text=args.random_text)
    setting = {
        "systems": labels, "size": args.size, "output size": args.output_size, "classes": args.classes,
        "threads": torch.get_num_threads(), "device": str(next(models[0].parameters()).device.type),
    }  # fmt: skip
    if args.json:
        write_text(args.json, json.dumps({"setting": setting, "ratios": ratios, "rows": rows}, indent=1) + "\n")
    if args.write_ratios:
        store(Path(args.write_ratios), setting, ratios)
    if args.check_ratios:
        worse = regressions(Path(args.check_ratios), setting, ratios, args.tolerance)
        print("\n" + "\n".join(worse or [f"no ratio is more than {args.tolerance:.0%} above '{args.check_ratios}'"]))
        if worse:
            sys.exit(1)


def _contenders(args: argparse.Namespace) -> list[tuple[str, str, list[str]]]:
    """Label, config file and overrides of the one or two that run."""
    name = Path(args.config_file).stem
    if args.training and args.precision:
        raise UserError("--precision is of inference; leave it out with --training")
    if args.compare and args.precision:
        raise UserError("--compare and --precision both name a second contender; give one of them")
    if args.compare:
        other = find_config(args.compare)
        return [(name, args.config_file, args.opts), (Path(other).stem, other, args.opts)]
    if args.precision:
        wanted = args.precision.split(",")
        if len(wanted) != 2:
            raise UserError(f"--precision is {args.precision!r}; give two behind a comma, like float32,bfloat16")
        return [(f"{name} {p}", args.config_file, [*args.opts, "MODEL.PRECISION", p]) for p in wanted]
    return [(name, args.config_file, args.opts)]


def _config(config: str, opts: list[str], *, random_text: bool) -> CfgNode:
    # Nothing random may get into the cache of embeddings.
    return load_config(config, opts + (["MODEL.CLIP.TEXT_CACHE", ""] if random_text else []))


def _build(cfg: CfgNode, *, random_text: bool) -> Any:
    # Two precisions of a system have the same weights, random or not.
    torch.manual_seed(0)
    model = build_from_config(cfg)
    if random_text:
        skip_text_tower(model)
    return model


def _measure(classes: int, labels: list[str], systems: list[Steps], repeats: int) -> dict[str, Any]:
    """All figures for one number of classes."""
    costs = take_turns([steps.runs for steps in systems], repeats)
    result: dict[str, Any] = {"classes": classes, "systems": {}}
    for label, steps, turns in zip(labels, systems, costs, strict=True):
        result["systems"][label] = {
            "text": steps.text_seconds,
            "steps": {
                name: {**vars(median(turns[name])), **_memory_and_operations(run)} for name, run in steps.runs.items()
            },
            "parts": named_parts(steps.runs["whole"], repeats),
        }
    result["peak"] = peak_bytes()
    if len(systems) == 2:
        shared = [name for name in NAMES if all(name in steps.runs for steps in systems)]
        result["ratios"] = {
            name: {figure: vars(ratio(costs[0][name], costs[1][name], figure)) for figure in ("wall", "processor")}
            for name in shared
        }
        if "label map" in shared:
            result["agree"] = _agreement(systems)
    return result


def _memory_and_operations(run: Callable[[], Any]) -> dict[str, float]:
    """Both from one call, which nobody times."""
    counted: list[int] = []
    added = added_memory(lambda: counted.append(operations(run)))
    return {"added": added, "operations": counted[0]}


def _agreement(systems: list[Steps]) -> float:
    """Share of pixels that both label alike."""
    first, second = (steps.runs["whole"]()[0] for steps in systems)
    return float((first == second).float().mean())


def _print_single(rows: list[dict[str, Any]], rate: float, *, random_text: bool) -> dict[str, float]:
    """The tables of one system; its ratios are processor times of steps over the trunk's, or over the whole's without one.

    Args:
        rate: operations per second of `best_rate`.
    """
    table, costs, parts, ratios = [], [], [], {}
    for row in rows:
        (system,) = row["systems"].values()
        steps = system["steps"]
        walls = [steps[name]["wall"] if name in steps else math.nan for name in NAMES]
        text = math.nan if random_text else system["text"]
        table.append([row["classes"], *walls, walls[-1] / walls[0], text, row["peak"] / 2**30])
        parts.append({"classes": row["classes"], **system["parts"]})
        base = "trunk" if "trunk" in steps else "whole"
        for name, figures in steps.items():
            arithmetic = figures["operations"] / rate / max(figures["processor"], 1e-9)
            costs.append([row["classes"], name, *_shown(figures), figures["operations"] / 1e9, arithmetic])
            if name != base:
                key = f"{row['classes']} classes, {name} / {base}"
                ratios[key] = figures["processor"] / max(steps[base]["processor"], 1e-9)
    # A training step has no other step beside it.
    if "label map" in steps:
        print(tabulate(table, headers=["classes", *_HEADERS], floatfmt=".3f"))
        print("\nseconds in the parts that the system names:")
        print(tabulate(parts, headers="keys", floatfmt=".3f"))
    print(
        f"\nwhat each step costs; the last column is the share of its time that arithmetic takes at {rate / 1e9:.0f} GFLOPS,"
    )
    print("which is what two large matrices are multiplied at:")
    headers = ["", "step", "wall s", "processor s", "page faults", "added MiB", "GFLOP", "arithmetic"]
    print(tabulate(costs, headers=headers, floatfmt=".3f"))
    return ratios


def _print_pair(rows: list[dict[str, Any]], labels: list[str]) -> dict[str, float]:
    """The table of two systems that took turns; its ratios are the second's processor times over the first's."""
    table, ratios = [], {}
    for row in rows:
        both = [row["systems"][label]["steps"] for label in labels]
        for name, found in row["ratios"].items():
            wall, processor = ("{median:.2f} ({low:.2f}-{high:.2f})".format(**found[k]) for k in ("wall", "processor"))
            shown = zip(_FORMATS, *(_shown(steps[name]) for steps in both), strict=True)
            pair = [f"{first:{form}} / {second:{form}}" for form, first, second in shown]
            table.append([row["classes"], name, *pair, wall, processor])
            ratios[f"{row['classes']} classes, {name}"] = found["processor"]["median"]
    print(f"{labels[0]} / {labels[1]}, and the second over the first: median over the turns, lowest and highest")
    headers = ["classes", "step", "wall s", "processor s", "page faults", "added MiB", "wall ratio", "processor ratio"]
    print(tabulate(table, headers=headers))
    for row in rows:
        if "agree" not in row:
            continue
        print(f"{row['classes']} classes: both label {row['agree']:.2%} of the pixels alike")
    return ratios


def _shown(figures: dict[str, float]) -> list[float]:
    return [figures["wall"], figures["processor"], figures["faults"], figures["added"] / _MIB]


def parse_size(text: str) -> tuple[int, int]:
    """ "640x854" -> (640, 854)"""
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise UserError(f"size {text!r} is not HEIGHTxWIDTH, like 640x854")
    return int(height), int(width)

"""Where a system's time goes, as ratios in one run; see `tools/benchmark.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from twostage.api import build_from_config
from twostage.benchmark.arithmetic import best_rate, operations
from twostage.benchmark.cost import added_memory, median, peak_bytes
from twostage.benchmark.names import NAMES
from twostage.benchmark.ratios import read_stored, regressions, store
from twostage.benchmark.steps import Steps, named_parts, skip_text_tower, system_steps
from twostage.benchmark.tables import print_pair, print_single
from twostage.benchmark.training import training_steps
from twostage.benchmark.turns import ratio, take_turns
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.files import check_writable, write_text
from twostage.sizes import parse_size


def run_from_arguments(args: argparse.Namespace) -> None:
    """Time what the arguments ask for, print the tables, write and check what was asked for.

    Raises:
        UserError: options that contradict each other, or anything wrong in a config or a file of ratios.
    """
    if "whole" not in args.steps:
        raise UserError(f"--steps {' '.join(args.steps)} leaves out the whole, which ratios are of; add it")
    size, output = parse_size(args.size, "--size"), parse_size(args.output_size, "--output-size")
    for file in filter(None, (args.json, args.write_ratios)):
        check_writable(Path(file).parent, "choose another file", remove_killed=False)
    contenders = _contenders(args)
    configs = [_config(config, opts, random_text=args.random_text) for _, config, opts in contenders]
    models = [_build(cfg, random_text=args.random_text) for cfg in configs]
    labels = [label for label, _, _ in contenders]
    setting = {
        "systems": labels, "size": args.size, "output size": args.output_size, "classes": args.classes,
        "threads": torch.get_num_threads(), "device": str(next(models[0].parameters()).device.type),
    }  # fmt: skip
    stored = read_stored(Path(args.check_ratios), setting) if args.check_ratios else {}
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=noise)

    def steps_of(model: Any, cfg: CfgNode, classes: int) -> Steps:
        if args.training:
            recompute = cfg.SOLVER.ACTIVATION_CHECKPOINTING
            return training_steps(model, size, args.training, classes, recompute=recompute)
        steps = system_steps(model, image, output, classes)
        return dataclasses.replace(steps, runs={name: run for name, run in steps.runs.items() if name in args.steps})

    rows = []
    with torch.inference_mode(not args.training):
        for classes in args.classes:
            systems = [steps_of(model, cfg, classes) for model, cfg in zip(models, configs, strict=True)]
            rows.append(_measure(classes, labels, systems, args.repeats))
    if len(models) == 2:
        ratios = print_pair(rows, labels)
    else:
        precision = models[0].precision or torch.float32
        rate = best_rate(precision, next(models[0].parameters()).device)
        ratios = print_single(rows, rate, random_text=args.random_text)
    if args.json:
        write_text(args.json, json.dumps({"setting": setting, "ratios": ratios, "rows": rows}, indent=1) + "\n")
    if args.write_ratios:
        store(Path(args.write_ratios), setting, ratios)
    if args.check_ratios:
        worse = regressions(stored, ratios, args.tolerance)
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

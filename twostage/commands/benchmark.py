"""Where a system's time goes, as ratios in one run; see `tools/benchmark.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from twostage.api import build_from_config
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.clip.towers.vit import embed_image, run_blocks
from twostage.config import load_config
from twostage.errors import UserError
from twostage.machine import peak_resident_memory
from twostage.vocabulary import Vocabulary


def run_from_arguments(args: argparse.Namespace) -> None:
    """Time what the arguments ask for and print the tables."""
    # Nothing random may get into the cache of embeddings.
    cfg = load_config(args.config_file, args.opts + (["MODEL.CLIP.TEXT_CACHE", ""] if args.random_text else []))
    model = build_from_config(cfg)
    if args.random_text:
        skip_text_tower(model)
    image = torch.randint(0, 256, (3, *parse_size(args.size)), dtype=torch.uint8)
    rows, named = [], []
    for count in args.classes:
        seconds, parts = measure(model, image, parse_size(args.output_size), count, args.repeats)
        if args.random_text:
            seconds["text"] = float("nan")
        rows.append([count, *seconds.values()])
        named.append({"classes": count, **parts})
    print(tabulate(rows, headers=["classes", *HEADERS], floatfmt=".3f"))
    print("\nseconds in the parts that the system names:")
    print(tabulate(named, headers="keys", floatfmt=".3f"))


HEADERS = (
    "trunk s", "encode s", "decode s", "label map s", "whole s", "whole / trunk", "text, first s", "peak GiB"
)  # fmt: skip


@torch.inference_mode()
def measure(
    model: Any, image: torch.Tensor, output: tuple[int, int], classes: int, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each step, in the order of `HEADERS`, and of the parts that the system names.

    Args:
        image: uint8 `[3, H, W]`.
        output: size of the label map.
    """
    vocabulary = Vocabulary.from_words([f"thing number {i}" for i in range(classes)])
    start = time.perf_counter()
    text = model.embed_vocabulary(vocabulary)
    text_seconds = time.perf_counter() - start
    images = model.preprocess([{"image": image}])
    inputs = clip_inputs(model, images)
    encoded = model.encode(images)
    prediction = model.decode(encoded, text)
    # With this, every step has run once before its time counts.
    prediction.label_maps([output])

    def whole() -> Any:
        return model.decode(model.encode(model.preprocess([{"image": image}])), text).label_maps([output])

    steps: dict[str, Callable[[], Any]] = {
        "trunk": lambda: [bare_trunk(model.clip.visual, batch) for batch in inputs],
        "encode": lambda: model.encode(images),
        "decode": lambda: model.decode(encoded, text),
        "finish": lambda: prediction.label_maps([output]),
        "whole": whole,
    }
    seconds = timed(steps, repeats)
    if not inputs:
        seconds["trunk"] = float("nan")
    return {
        **seconds,
        "ratio": seconds["whole"] / seconds["trunk"],
        "text": text_seconds,
        "peak": peak_bytes() / 2**30,
    }, named_parts(whole, repeats)


def skip_text_tower(model: Any) -> None:
    """Let every prompt have a random embedding.

    Raises:
        UserError: the system reads no text.
    """
    if model.text is None:
        raise UserError("--random-text: this system reads no text; leave the option out")
    with torch.inference_mode():
        width = model.text.encode_prompts(["thing"]).shape[1]
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)

    def random_embeddings(prompts: Sequence[str]) -> torch.Tensor:
        return torch.randn(len(prompts), width, generator=generator).to(device)

    model.text.encode_prompts = random_embeddings


def clip_inputs(model: Any, images: Any) -> list[torch.Tensor]:
    """The batches that the system hands to the first layer of CLIP's image tower, caught on their way; none without one."""
    if model.clip is None:
        return []
    first = next(module for module in model.clip.visual.modules() if isinstance(module, torch.nn.Conv2d))
    caught: list[torch.Tensor] = []
    hook = first.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    model.encode(images)
    hook.remove()
    return caught


def bare_trunk(visual: Any, images: torch.Tensor) -> Any:
    """CLIP's image tower up to its last block or stage."""
    if not hasattr(visual, "transformer"):
        return feature_pyramid(visual, images)
    return run_blocks(visual.transformer.resblocks, embed_image(visual, images))


def named_parts(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of the ranges that `run` records, by name, in the order of their first appearance."""
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            run()
            synchronise()
        totals: dict[str, float] = defaultdict(float)
        for event in sorted(profiled.events(), key=lambda event: event.time_range.start):
            if event.is_user_annotation:
                totals[event.name] += event.time_range.elapsed_us() / 1e6
        for name, total in totals.items():
            samples[name].append(total)
    return {name: statistics.median(values) for name, values in samples.items()}


def peak_bytes() -> int:
    """Most memory held so far: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_memory()


def timed(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each part, warmed up before; they take turns, so that a slow moment of the machine hits all."""
    samples: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, run in parts.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            samples[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in samples.items()}


def synchronise() -> None:
    """Wait for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def parse_size(text: str) -> tuple[int, int]:
    """ "640x854" -> (640, 854)"""
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise UserError(f"size {text!r} is not HEIGHTxWIDTH, like 640x854")
    return int(height), int(width)

"""The steps of a system as calls that can be timed: CLIP's bare trunk, `encode`, `decode`, the label map, all of it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from twostage.benchmark.cost import synchronise
from twostage.benchmark.names import words
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.clip.towers.vit import embed_image, run_blocks
from twostage.errors import UserError
from twostage.inference.precision import reduced
from twostage.inference.resampling import Size
from twostage.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """What a system does to one picture and one vocabulary.

    Attributes:
        runs: `NAMES` -> call; without "trunk" for a system that does not use CLIP's image tower.
        text_seconds: what embedding the vocabulary took, the first time.
    """

    runs: dict[str, Callable[[], Any]]
    text_seconds: float


def system_steps(model: Any, image: Tensor, output: Size, classes: int) -> Steps:
    """The steps, each run once, so that nothing is done for the first time when it is timed.

    Args:
        image: uint8 `[3, H, W]`.
        output: size of the label map.
    """
    vocabulary = Vocabulary.from_words(words(classes))
    start = time.perf_counter()
    text = model.embed_vocabulary(vocabulary)
    text_seconds = time.perf_counter() - start
    images = model.preprocess([{"image": image}])
    inputs = clip_inputs(model, images)
    encoded = model.encode(images)
    prediction = model.decode(encoded, text)
    prediction.label_maps([output])

    def whole() -> list[Tensor]:
        return model.decode(model.encode(model.preprocess([{"image": image}])), text).label_maps([output])

    runs: dict[str, Callable[[], Any]] = {
        "trunk": lambda: _run_trunk(model, inputs),
        "encode": lambda: model.encode(images),
        "decode": lambda: model.decode(encoded, text),
        "label map": lambda: prediction.label_maps([output]),
        "whole": whole,
    }
    if not inputs:
        del runs["trunk"]
    return Steps(runs=runs, text_seconds=text_seconds)


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

    def random_embeddings(prompts: Sequence[str]) -> Tensor:
        return torch.randn(len(prompts), width, generator=generator).to(device)

    model.text.encode_prompts = random_embeddings


def clip_inputs(model: Any, images: Any) -> list[Tensor]:
    """The batches that the system hands to the first layer of CLIP's image tower, caught on their way; none without one."""
    if model.clip is None:
        return []
    first = next(module for module in model.clip.visual.modules() if isinstance(module, torch.nn.Conv2d))
    caught: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    model.encode(images)
    hook.remove()
    return caught


@reduced
def _run_trunk(model: Any, inputs: Sequence[Tensor]) -> list[Any]:
    """The trunk on batches of `clip_inputs`, in the model's precision."""
    return [bare_trunk(model.clip.visual, batch) for batch in inputs]


def bare_trunk(visual: Any, images: Tensor) -> Any:
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

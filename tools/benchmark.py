"""Where a system's time goes, as ratios in one run.

    python tools/benchmark.py --config-file configs/san_vitb.yaml --size 640x854 --output-size 512x683 \\
        --classes 20 150 847 MODEL.CLIP.PRETRAINED ''

Prints, per number of classes: seconds for the parts (median of --repeats), each as a multiple of CLIP's bare image trunk on
the system's own CLIP input, and the peak memory of the process. Weights may be random; the time does not depend on them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tabulate import tabulate

from twostage.api import build_from_config
from twostage.clip.vit import embed_image, require_vit, run_blocks
from twostage.config import load_config
from twostage.errors import UserError, run_cli
from twostage.vocabulary import Vocabulary


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--size", default="640x854", help="image fed to the model, height x width")
    parser.add_argument("--output-size", default="512x683", help="size of the label map")
    parser.add_argument("--classes", type=int, nargs="+", default=[20, 150, 847])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    model = build_from_config(cfg)
    require_vit(model.clip.visual, "this benchmark")
    image = torch.randint(0, 256, (3, *parse_size(args.size)), dtype=torch.uint8)
    rows = []
    for count in args.classes:
        rows.append([count, *measure(model, image, parse_size(args.output_size), count, args.repeats).values()])
    print(tabulate(rows, headers=["classes", *HEADERS], floatfmt=".3f"))


HEADERS = (
    "trunk s", "encode s", "decode s", "label map s", "whole s", "whole / trunk", "text, first s", "peak GiB"
)  # fmt: skip


@torch.inference_mode()
def measure(model: Any, image: torch.Tensor, output: tuple[int, int], classes: int, repeats: int) -> dict[str, float]:
    """Seconds of each part, in the order of `HEADERS`.

    Args:
        image: uint8 `[3, H, W]`.
        output: size of the label map.
    """
    vocabulary = Vocabulary.from_words([f"thing number {i}" for i in range(classes)])
    start = time.perf_counter()
    text = model.embed_vocabulary(vocabulary)
    text_seconds = time.perf_counter() - start
    images = model.preprocess([{"image": image}])
    trunk_input = clip_input(model, images)
    visual = model.clip.visual
    encoded = model.encode(images)
    prediction = model.decode(encoded, text)
    parts: dict[str, Callable[[], Any]] = {
        "trunk": lambda: run_blocks(visual.transformer.resblocks, embed_image(visual, trunk_input)),
        "encode": lambda: model.encode(images),
        "decode": lambda: model.decode(encoded, text),
        "finish": lambda: prediction.label_maps([output]),
        "whole": lambda: model.decode(model.encode(model.preprocess([{"image": image}])), text).label_maps([output]),
    }
    seconds = timed(parts, repeats)
    return {
        **seconds,
        "ratio": seconds["whole"] / seconds["trunk"],
        "text": text_seconds,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def clip_input(model: Any, images: Any) -> torch.Tensor:
    """What the system hands to CLIP's first layer, caught on its way."""
    caught: list[torch.Tensor] = []
    hook = model.clip.visual.conv1.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    model.encode(images)
    hook.remove()
    return caught[0]


def timed(parts: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each part; the parts take turns, so that a slow moment of the machine hits all of them."""
    samples: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name, run in parts.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            if turn:
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


if __name__ == "__main__":
    run_cli(main)

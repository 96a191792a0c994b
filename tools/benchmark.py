#!/usr/bin/env python
"""Where a system's time goes, as ratios in one run.

    python tools/benchmark.py --config-file configs/san_vitb.yaml --size 640x854 --output-size 512x683 \\
        --classes 20 150 847 MODEL.CLIP.PRETRAINED ''

Prints, per number of classes, seconds (median of --repeats): CLIP's bare image trunk on the system's own CLIP inputs (the
image, windows of it, crops of regions), `encode`, `decode`, the label map, all of it and its ratio to the trunk, the first
text embedding, and the peak memory of the process. A system without CLIP's image tower has "nan" for the trunk.
Then the parts that the system itself names with `torch.profiler.record_function` ("aggregation", "decoder", ...); on a GPU
these are the host's times. Then per step wall and processor seconds, page faults, the memory it adds to what was held
before, and its arithmetic: floating-point operations, and the share of the time that they take at the rate of two large
matrices. Weights may be random; the time does not depend on them, unless a system rejects classes early.

With --compare CONFIG or --precision float32,bfloat16 two systems take turns in one process: figures of both, and the
second's over the first's as median, lowest and highest over the turns. --json FILE writes everything; --write-ratios FILE
stores the ratios of processor times, against which --check-ratios FILE holds a later version (docs/benchmarks/).
With --training BATCH it is a training step that is timed, forward and backward pass of so many pictures of --size with random
labels, on a vocabulary of --classes names; SOLVER.ACTIVATION_CHECKPOINTING True shows what that costs and saves.
With --random-text random vectors stand in for the text tower, which takes hours on a CPU for 847 names in 80 prompts each.
"""

from __future__ import annotations

from twostage.commands.arguments.learning import benchmark_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = benchmark_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.benchmark import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

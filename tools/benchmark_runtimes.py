#!/usr/bin/env python
"""Files of `twostage export` in onnxruntime and, where it is installed, OpenVINO, beside the same system in torch, in one run.

    python tools/benchmark_runtimes.py san.onnx --weights output/san/model_final.pth

Everybody goes from pixels to label map, on the same toybox pictures, and they take turns. Prints the median milliseconds of a
picture on the clock and of processor time, the ratio of the clock's to torch's (median, lowest and highest turn), and
the share of labels that are torch's.
"""

from __future__ import annotations

from twostage.commands.tool_arguments import benchmark_runtimes_parser
from twostage.errors import run_cli


def main() -> None:
    """Parse the command line and run."""
    args = benchmark_runtimes_parser(__doc__).parse_args()
    # Imported only now, so that --help needs no torch.
    from twostage.commands.benchmark_runtimes import run_from_arguments

    run_from_arguments(args)


if __name__ == "__main__":
    run_cli(main)

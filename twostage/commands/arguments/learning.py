"""Commands that train a system, evaluate it and measure its time."""

from __future__ import annotations

from twostage.benchmark.names import NAMES
from twostage.commands.arguments.parts import add_config, add_fast, add_overrides, add_processes, fraction, positive
from twostage.commands.parser import Parser
from twostage.machine import expand_home


def train_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Detectron2's arguments, by its names, and `--skip-broken`; on one machine the processes' address is chosen for you."""
    parser = Parser(text, prog)
    add_config(parser, required=False)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, don't train")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken files out and list them, don't stop")
    add_processes(parser)
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="start this on each of them")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="which machine this is, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="tcp://HOST:PORT", help="of machine 0, if there are several"
    )
    add_overrides(parser)
    return parser


def evaluate_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/evaluate.py`."""
    parser = Parser(text, prog)
    add_config(parser).add_argument(
        "--list",
        type=expand_home,
        metavar="FILE",
        help="or a yaml list of systems, for one table and one page of pictures",
    )
    add_fast(parser)
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--name", default="", help="of the system in tables and reports; default: its architecture")
    parser.add_argument("--report", action="store_true", help="write an HTML report per dataset (predicts twice)")
    parser.add_argument("--resume", action="store_true", help="go on with a stopped evaluation in OUTPUT_DIR")
    parser.add_argument("--skip-broken", action="store_true", help="leave out and list images with broken files")
    parser.add_argument("--skip-missing", action="store_true", help="leave out datasets that are not on this machine")
    add_processes(parser)
    add_overrides(parser)
    return parser


def benchmark_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/benchmark.py`."""
    parser = Parser(text, prog)
    add_config(parser)
    parser.add_argument("--size", default="640x854", help="image fed to the model, height x width")
    parser.add_argument("--output-size", default="512x683", help="size of the label map")
    parser.add_argument("--classes", type=positive, nargs="+", default=[20, 150, 847])
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--random-text", action="store_true", help="random prompts' embeddings, no text tower")
    parser.add_argument(
        "--steps", nargs="+", choices=NAMES, default=NAMES, metavar="STEP",
        help=f"measure these only, the whole among them: {', '.join(NAMES)}",
    )  # fmt: skip
    parser.add_argument("--compare", metavar="CONFIG", help="take turns with this system, and print ratios")
    parser.add_argument("--precision", metavar="A,B", help="take turns in two precisions, like float32,bfloat16")
    parser.add_argument(
        "--training", type=positive, metavar="BATCH", help="time forward and backward pass of BATCH pictures of --size"
    )
    parser.add_argument("--json", type=expand_home, metavar="FILE", help="write all figures")
    parser.add_argument("--write-ratios", type=expand_home, metavar="FILE", help="store the ratios of this run")
    parser.add_argument(
        "--check-ratios",
        type=expand_home,
        metavar="FILE",
        help="exit code 1 where a ratio is worse than the stored one",
    )
    parser.add_argument(
        "--tolerance", type=fraction, default=0.2, metavar="SHARE", help="of --check-ratios (default 0.2)"
    )
    add_overrides(parser)
    return parser

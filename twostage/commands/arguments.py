"""The arguments of the command line. Nothing heavy is imported here, so that `--help` answers at once.

Each function takes the text that `--help` shows and the program's name; `twostage` and `tools/` share them.
"""

from __future__ import annotations

import argparse
import os

from twostage.benchmark.names import NAMES
from twostage.commands.parser import Parser
from twostage.errors import UserError
from twostage.labelling.formats import parse_formats as parse_shard_formats
from twostage.machine import expand_home
from twostage.results.formats import parse_formats


def train_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Detectron2's arguments, by its names, and `--skip-broken`; on one machine the processes' address is chosen for you."""
    parser = Parser(text, prog)
    add_config(parser, required=False)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, don't train")
    parser.add_argument("--skip-broken", action="store_true", help="leave broken files out and list them, don't stop")
    _add_processes(parser)
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
    _add_fast(parser)
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--name", default="", help="of the system in tables and reports; default: its architecture")
    parser.add_argument("--report", action="store_true", help="write an HTML report per dataset (predicts twice)")
    parser.add_argument("--resume", action="store_true", help="go on with a stopped evaluation in OUTPUT_DIR")
    parser.add_argument("--skip-broken", action="store_true", help="leave out and list images with broken files")
    parser.add_argument("--skip-missing", action="store_true", help="leave out datasets that are not on this machine")
    _add_processes(parser)
    add_overrides(parser)
    return parser


def segment_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage segment`."""
    parser = Parser(text, prog)
    parser.add_argument("pictures", nargs="+", type=expand_home, metavar="PICTURE_OR_FOLDER")
    parser.add_argument(
        "--words", dest="vocabulary", required=True, metavar="WORDS", help="names, a file of names or a dataset"
    )
    add_config(parser).add_argument(
        "--engine",
        nargs=2,
        metavar=("RUNTIME", "FILE.onnx"),
        help="run a file of `twostage export` instead: by onnx (onnxruntime) or openvino",
    )
    _add_fast(parser)
    parser.add_argument(
        "--min-score", type=float, metavar="SCORE", help="pixels whose best name scores less are none of the words"
    )
    _add_segment_score(parser, "--segment-score")
    _add_results(parser)
    parser.add_argument(
        "--set", nargs="+", dest="opts", default=[], metavar="KEY VALUE", help="config overrides, in pairs"
    )
    return parser


def export_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage export`."""
    parser = Parser(text, prog)
    add_config(parser)
    parser.add_argument("--output", required=True, type=expand_home, metavar="FILE.onnx")
    parser.add_argument(
        "--size",
        default="dynamic",
        metavar="HEIGHTxWIDTH",
        help="every picture is stretched to this size; dynamic (default): pictures of any size",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16"),
        default="float32",
        help="of the stored weights; computing is in float32 (default float32)",
    )
    parser.add_argument(
        "--pictures", type=positive, default=20, metavar="N", help="toybox pictures to compare on (default 20)"
    )
    add_overrides(parser)
    return parser


def label_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage label`."""
    parser = Parser(text, prog)
    parser.add_argument(
        "source", type=expand_home, metavar="SOURCE", help="a folder, a list of files (.txt), tar shards or parquet"
    )
    parser.add_argument(
        "--words", dest="vocabulary", required=True, metavar="WORDS", help="names, a file of names or a dataset"
    )
    add_config(parser)
    parser.add_argument("--output", required=True, type=expand_home, metavar="FOLDER")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="local (default) needs nothing else"
    )
    parser.add_argument(
        "--format",
        type=parse_shard_formats,
        default=("parquet",),
        help="several behind commas: parquet (default), jsonl, coco, png (label maps)",
    )
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="on this machine; one per GPU")
    parser.add_argument("--readers", type=positive, default=2, metavar="N", help="threads per process that decode")
    parser.add_argument("--shard-size", type=positive, default=1000, metavar="N", help="pictures per shard of results")
    parser.add_argument("--min-score", type=float, metavar="SCORE", help="as `twostage segment` has it")
    parser.add_argument(
        "--others", default="few", metavar="WORDS", help="contrast words, as `twostage segment` has them"
    )
    parser.add_argument("--dry-run", action="store_true", help="only estimate time and disk, from 20 pictures")
    parser.add_argument(
        "--set", nargs="+", dest="opts", default=[], metavar="KEY VALUE", help="config overrides, in pairs"
    )
    return parser


def large_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage large`."""
    parser = _one_source(text, prog, "PICTURE", "a picture, or a GeoTIFF (.tif)")
    parser.add_argument("--output", required=True, type=expand_home, metavar="FILE", help=".png, or .tif for a GeoTIFF")
    return parser


def video_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage video`."""
    parser = _one_source(text, prog, "SOURCE", "a video, or a folder of frames")
    parser.add_argument("--output", required=True, type=expand_home, metavar="FOLDER")
    parser.add_argument(
        "--smooth", type=_fraction, default=0.0, metavar="SHARE", help="of a frame's scores that the last frames give"
    )
    return parser


def _one_source(text: str | None, prog: str | None, name: str, meaning: str) -> Parser:
    parser = Parser(text, prog)
    parser.add_argument("source", type=expand_home, metavar=name, help=meaning)
    parser.add_argument(
        "--words", dest="vocabulary", required=True, metavar="WORDS", help="names, a file of names or a dataset"
    )
    add_config(parser)
    parser.add_argument(
        "--others", default="few", metavar="WORDS", help="contrast words, as `twostage segment` has them"
    )
    parser.add_argument(
        "--set", nargs="+", dest="opts", default=[], metavar="KEY VALUE", help="config overrides, in pairs"
    )
    return parser


def demo_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/demo.py`, which gives the same as `twostage segment`."""
    parser = Parser(text, prog)
    add_config(parser)
    _add_fast(parser)
    parser.add_argument(
        "--input", nargs="+", dest="pictures", required=True, type=expand_home, metavar="FILE_OR_FOLDER"
    )
    parser.add_argument(
        "--vocabulary", required=True, metavar="WORDS", help="names, a file of names, a dataset or a dataset folder"
    )
    _add_segment_score(parser, "--min-score")
    _add_results(parser)
    add_overrides(parser)
    parser.set_defaults(min_score=None)
    return parser


def _add_segment_score(parser: Parser, option: str) -> None:
    parser.add_argument(
        option,
        dest="segment_score",
        type=_fraction,
        default=0.8,
        metavar="SCORE",
        help="of panoptic segments, 0 to 1 (default 0.8)",
    )


def _add_results(parser: Parser) -> None:
    parser.add_argument(
        "--others",
        default="few",
        metavar="WORDS",
        help="contrast words, whose pixels are none of yours: your own, auto (the shipped ones), none, or few (default: auto "
        "where you ask for fewer than five)",
    )
    parser.add_argument("--things", metavar="WORDS", help="names that are countable: also write panoptic segments")
    parser.add_argument(
        "--format", type=parse_formats, default=("png",), help="several behind commas: png (default), coco, npz"
    )
    parser.add_argument("--output", required=True, type=expand_home, metavar="FOLDER")


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
        "--tolerance", type=_fraction, default=0.2, metavar="SHARE", help="of --check-ratios (default 0.2)"
    )
    add_overrides(parser)
    return parser


def prepare_datasets_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/prepare_datasets.py`: `list`, `prepare` and `verify` in `command`."""
    parser = Parser(text, prog)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_listing(commands.add_parser("list", help="the benchmarks, or all about one of them"))
    _add_preparing(commands.add_parser("prepare", help="make the labels of a benchmark"))
    _add_checking(commands.add_parser("verify", help="check what lies on disk"))
    return parser


def datasets_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage datasets`."""
    return _add_listing(Parser(text, prog))


def prepare_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage prepare`."""
    return _add_preparing(Parser(text, prog))


def verify_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage verify`."""
    return _add_checking(Parser(text, prog))


def _add_listing(parser: Parser) -> Parser:
    parser.add_argument("name", nargs="?", help="a benchmark, one of its registered names, or what papers call it")
    parser.set_defaults(command="list")
    return parser


def _add_preparing(parser: Parser) -> Parser:
    _add_checking(parser)
    parser.add_argument("--source", metavar="DIR", help="the unpacked download; default: the folder of all datasets")
    parser.add_argument(
        "--coco",
        type=expand_home,
        metavar="FILE",
        help="make the folder NAME, one of --splits, of a COCO json: instances, stuff or panoptic",
    )
    parser.add_argument("--pictures", type=expand_home, metavar="DIR", help="with --coco: where its file names lie")
    parser.add_argument(
        "--segments",
        type=expand_home,
        metavar="DIR",
        help="with --coco: the PNGs of a panoptic json; default: beside it, called like it",
    )
    parser.set_defaults(command="prepare")
    return parser


def _add_checking(parser: Parser) -> Parser:
    parser.add_argument("name", type=expand_home, help="a benchmark or a folder of your own")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", default=[], help="train, val; default: all there are")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files at a time")
    parser.add_argument("--skip-broken", action="store_true", help="count and list broken files, don't stop at them")
    parser.set_defaults(command="verify")
    return parser


def systems_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage systems`."""
    parser = Parser(text, prog)
    parser.add_argument("--json", action="store_true", help="print the cards as JSON")
    parser.add_argument(
        "--all", action="store_true", help="also those of the field's tables that are not hosted, and why"
    )
    parser.set_defaults(markdown=False, update_readme=False)
    return parser


def weights_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage weights` and `tools/weights.py`: `list`, `get` and `verify` in `weights_command`."""
    parser = Parser(text, prog)
    commands = parser.add_subparsers(dest="weights_command", required=True)
    listing = commands.add_parser("list", help="what was published, and what of it is here")
    listing.add_argument("system", nargs="?", default="", help="of this system or config only")
    listing.add_argument("--json", action="store_true", help="print everything that is known as JSON")
    getting = commands.add_parser("get", help="download")
    getting.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a checkpoint's name, a config's, hf://owner/repository/file or https://...",
    )
    verifying = commands.add_parser("verify", help="check that what is here is what it was on first use")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all that is here")
    return parser


def serve_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage serve` and `tools/serve.py`."""
    parser = Parser(text, prog)
    parser.add_argument(
        "--system", action="append", default=[], metavar="SYSTEM", help="a config's name or file; may be given again"
    )
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME_OR_FILE", help="of each --system, in the same order"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; the default serves this machine only"
    )
    parser.add_argument("--port", type=int, default=7860, help="0: any free one")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU where there is one")
    _add_fast(parser)
    return parser


def completion_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage completion`."""
    parser = Parser(text, prog)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on. Raises UserError for anything else."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{text!r} is no number of things; give a whole number from 1 on")
    return int(text)


def _fraction(text: str) -> float:
    """A number between 0 and 1. Raises UserError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UserError(f"{text!r} is no share; give a number between 0 and 1")
    return value


def add_config(parser: Parser, *, required: bool = True) -> argparse._MutuallyExclusiveGroup:
    """Add the ways to name a system, and its weights; returns the group, for further ways."""
    which = parser.add_mutually_exclusive_group(required=required)
    # The first of them gives the default.
    which.add_argument("--config-file", default="", type=expand_home, metavar="FILE", help="a yaml file")
    which.add_argument("--system", dest="config_file", type=_system, metavar="SYSTEM", help="or a config's name")
    parser.add_argument(
        "--weights", metavar="NAME_OR_FILE", help="a checkpoint: a file, official, a published name or an address"
    )
    return which


def _add_fast(parser: Parser) -> None:
    parser.add_argument("--fast", action="store_true", help="compute in reduced precision where that is faster")


def _system(name: str) -> str:
    """The file of a config's name."""
    # Reads the cards, which --help does without.
    from twostage.config.finding import find_config

    return find_config(name)


def _add_processes(parser: Parser) -> None:
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; without GPUs on the CPU")


def add_overrides(parser: Parser) -> None:
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")

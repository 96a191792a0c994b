"""Commands that name the pixels of pictures, videos and maps by words."""

from __future__ import annotations

from twostage.commands.arguments.parts import add_config, add_fast, add_overrides, fraction, number, positive
from twostage.commands.parser import Parser
from twostage.labelling.formats import parse_formats as parse_shard_formats
from twostage.machine import expand_home
from twostage.results.formats import parse_formats


def segment_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage segment`."""
    parser = Parser(text, prog)
    parser.add_argument("pictures", nargs="+", type=expand_home, metavar="PICTURE_OR_FOLDER")
    _add_words(parser)
    add_config(parser).add_argument(
        "--engine",
        nargs=2,
        metavar=("RUNTIME", "FILE.onnx"),
        help="run a file of `twostage export` instead: by onnx (onnxruntime) or openvino",
    )
    add_fast(parser)
    parser.add_argument(
        "--min-score", type=number, metavar="SCORE", help="pixels whose best name scores less are none of the words"
    )
    _add_segment_score(parser, "--segment-score")
    _add_results(parser)
    _add_set(parser)
    return parser


def demo_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/demo.py`, which gives the same as `twostage segment`."""
    parser = Parser(text, prog)
    add_config(parser)
    add_fast(parser)
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


def label_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `twostage label`."""
    parser = Parser(text, prog)
    parser.add_argument(
        "source", type=expand_home, metavar="SOURCE", help="a folder, a list of files (.txt), tar shards or parquet"
    )
    _add_words(parser)
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
    parser.add_argument("--min-score", type=number, metavar="SCORE", help="as `twostage segment` has it")
    _add_others(parser)
    parser.add_argument("--dry-run", action="store_true", help="only estimate time and disk, from 20 pictures")
    _add_set(parser)
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
        "--smooth", type=fraction, default=0.0, metavar="SHARE", help="of a frame's scores that the last frames give"
    )
    return parser


def _one_source(text: str | None, prog: str | None, name: str, meaning: str) -> Parser:
    parser = Parser(text, prog)
    parser.add_argument("source", type=expand_home, metavar=name, help=meaning)
    _add_words(parser)
    add_config(parser)
    _add_others(parser)
    _add_set(parser)
    return parser


def _add_words(parser: Parser) -> None:
    parser.add_argument(
        "--words", dest="vocabulary", required=True, metavar="WORDS", help="names, a file of names or a dataset"
    )


def _add_others(parser: Parser) -> None:
    parser.add_argument(
        "--others", default="few", metavar="WORDS", help="contrast words, as `twostage segment` has them"
    )


def _add_set(parser: Parser) -> None:
    parser.add_argument(
        "--set", nargs="+", dest="opts", default=[], metavar="KEY VALUE", help="config overrides, in pairs"
    )


def _add_segment_score(parser: Parser, option: str) -> None:
    parser.add_argument(
        option,
        dest="segment_score",
        type=fraction,
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

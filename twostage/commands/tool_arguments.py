"""The arguments of the tools for developers, as `twostage.commands.arguments` has those of the command."""

from __future__ import annotations

from pathlib import Path

from twostage.commands.arguments.parts import add_config, positive
from twostage.commands.parser import Parser
from twostage.machine import user_path


def draw_attention_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/draw_attention.py`."""
    parser = Parser(text, prog)
    add_config(parser)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--index", type=int, default=0, help="number of the image in the dataset")
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="default: all")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE.png")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def draw_growth_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/draw_growth.py`."""
    parser = Parser(text, prog)
    parser.add_argument("files", nargs="+", type=user_path, metavar="FILE.json", help="of tools/benchmark.py --json")
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE.png")
    return parser


def make_demo_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/make_demo.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--output", type=user_path, default=Path("output/demo"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-iter", type=int, default=0, metavar="N", help="default: what the config says")
    return parser


def systems_tool_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/systems.py`."""
    parser = Parser(text, prog)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--json", action="store_true", help="print the cards as JSON")
    choice.add_argument("--update-readme", action="store_true", help="write the table into README.md")
    parser.set_defaults(markdown=True, all=False)
    return parser


def benchmark_diffusion_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/benchmark_diffusion.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--crops", type=int, default=4, help="a picture of 1024 x 1024 has 4")
    parser.add_argument("--repeats", type=positive, default=1)
    return parser


def benchmark_runtimes_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/benchmark_runtimes.py`."""
    parser = Parser(text, prog)
    parser.add_argument("files", nargs="+", type=user_path, metavar="FILE.onnx", help="of `twostage export`")
    parser.add_argument(
        "--weights",
        default="",
        metavar="FILE",
        help="of the torch system (default: what the file's config starts with)",
    )
    parser.add_argument("--pictures", type=positive, default=9, metavar="N", help="toybox pictures (default 9)")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="runs of each picture (default 3)")
    parser.add_argument("--classes", type=positive, default=20, metavar="N", help="of toybox (default 20)")
    parser.add_argument("--scale", type=positive, default=1, metavar="N", help="pictures are enlarged so many times")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="of each runtime (default 1)")
    return parser


def train_toy_diffusion_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/train_toy_diffusion.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--unet-steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--threads", type=int, default=1, help="the shipped weights were trained with one")
    parser.add_argument("--output", type=user_path, help="file to write; default: the shipped one")
    return parser


def train_toy_vit_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/train_toy_vit.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the shipped weights were trained with one")
    parser.add_argument("--output", type=user_path, help="file to write; default: the shipped one")
    return parser


def train_toy_clip_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/train_toy_clip.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--model", required=True, choices=("toybox-convnext", "toybox-vit"))
    parser.add_argument("--steps", type=int, help="default: those of the shipped weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="the shipped weights were trained with one")
    parser.add_argument("--output", type=user_path, help="file to write; default: the shipped one")
    return parser


def train_mask_prompt_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/train_mask_prompt.py`: `pairs`, `train`, `accuracy` and `merge` in `command`."""
    parser = Parser(text, prog)
    commands = parser.add_subparsers(dest="command", required=True)
    pairs = commands.add_parser("pairs", help="build mask-category pairs from a labelled or captioned set")
    pairs.add_argument("--dataset", required=True)
    pairs.add_argument("--output", type=user_path, required=True, metavar="FOLDER")
    pairs.add_argument("--segmenter", metavar="CONFIG", help="OVSeg or zsseg, for captioned sets")
    pairs.add_argument("--weights", help="its checkpoint")
    pairs.add_argument("--min-pixels", type=int, default=1, help="smaller masks are left out")
    pairs.add_argument("--limit", type=int, help="take only this many pictures")
    training = commands.add_parser("train", help="tune CLIP or its mask prompts on pairs")
    _add_clip(training, depth=3)
    training.add_argument("--pairs", type=user_path, required=True, metavar="FOLDER_OR_CSV")
    training.add_argument("--mode", choices=("prompts", "clip", "both"), required=True)
    training.add_argument("--output", type=user_path, required=True, metavar="FILE.safetensors")
    for field in ("epochs", "batch-size", "seed"):
        training.add_argument(f"--{field}", type=int, help="instead of the recipe's")
    training.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    training.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    measuring = commands.add_parser("accuracy", help="zero-shot accuracy on masked pictures of a labelled set")
    _add_clip(measuring, depth=0)
    measuring.add_argument("--dataset", required=True)
    measuring.add_argument("--min-pixels", type=int, default=1)
    measuring.add_argument("--limit", type=int, help="take only this many pictures")
    merging = commands.add_parser("merge", help="put an adapted CLIP into a trained system")
    merging.add_argument("--weights", required=True, help="checkpoint of the system, in our names")
    merging.add_argument("--pretrained", required=True, metavar="FILE", help="what `train` wrote")
    merging.add_argument("--output", type=user_path, required=True, metavar="FILE.safetensors")
    return parser


def _add_clip(parser: Parser, *, depth: int) -> None:
    parser.add_argument("--clip", required=True, help="name, as MODEL.CLIP.NAME")
    parser.add_argument("--pretrained", required=True, help="tag or file, as MODEL.CLIP.PRETRAINED")
    parser.add_argument("--quick-gelu", choices=("auto", "on", "off"), default="auto", help="as MODEL.CLIP.QUICK_GELU")
    parser.add_argument("--depth", type=int, default=depth, help="layers of mask prompts")
    parser.add_argument("--crop-size", type=int, default=0, help="as MODEL.OVSEG.CROP_SIZE; 0: CLIP's own")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU where there is one")


def label_campaign_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/label_campaign.py`."""
    parser = Parser(text, prog)
    parser.add_argument("--pictures", type=positive, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--shard-size", type=positive, default=200, help="pictures per tar file")
    parser.add_argument("--processes", type=positive, default=1)
    parser.add_argument("--system", default="toybox/maskclip", metavar="SYSTEM")
    parser.add_argument("--ray", action="store_true", help="label once more on Ray")
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER")
    return parser


def tile_placements_parser(text: str | None = None, prog: str | None = None) -> Parser:
    """Of `tools/tile_placements.py`."""
    parser = Parser(text, prog)
    add_config(parser)
    parser.add_argument("--tile", type=positive, default=128, metavar="PIXELS", help="side of a tile")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser

"""Write a system as ONNX files that run without torch: `twostage export`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from twostage.api import Segmenter, build_from_config
from twostage.commands.benchmark import parse_size
from twostage.config import load_config
from twostage.errors import UserError
from twostage.export.comparison import compare, toybox_pictures
from twostage.export.engine import load_onnx, text_file
from twostage.export.exporting import export
from twostage.export.forms import form_of
from twostage.files import check_writable


def run_from_arguments(args: argparse.Namespace) -> None:
    """Export, compare with torch, and print the comparison; a file that differs does not stay.

    Raises:
        UserError: anything wrong in config or size, a system that is not exported, or files that differ from torch.
    """
    output = Path(args.output)
    if output.suffix != ".onnx":
        raise UserError(f"--output is '{output}'; give a file that ends in .onnx")
    dynamic = args.size == "dynamic"
    stretch: list[str] = []
    if not dynamic:
        height, width = parse_size(args.size)
        stretch = ["INPUT.RESIZE_TEST", "stretch", "INPUT.SIZE_TEST", f"({height}, {width})"]
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu", *stretch])
    check_writable(output.parent, "choose another --output")
    segmenter = Segmenter(build_from_config(cfg), cfg)
    # The first picture is traced with; the others have other sizes.
    first, *pictures = toybox_pictures(1 + args.pictures)
    # Beside the place where it goes, so that nobody takes it for one that was compared.
    unchecked = output.with_name(f".{output.stem}.unchecked.onnx")
    paths = (unchecked, text_file(unchecked))
    try:
        export(segmenter, unchecked, dynamic=dynamic, picture=first, half=args.precision == "float16")
        result = compare(segmenter, load_onnx(unchecked), pictures=pictures, strays=form_of(cfg).strays)
        print(result.summary())
        result.check()
        text_file(unchecked).replace(text_file(output))
        unchecked.replace(output)
    finally:
        for path in paths:
            with suppress(OSError):
                path.unlink()
    for path in (output, text_file(output)):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")

"""Write a system as ONNX files that run without torch: `twostage export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from twostage.api import Segmenter, build_from_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.export.comparison import compare, toybox_pictures
from twostage.export.engine import load_onnx, text_file
from twostage.export.exporting import export
from twostage.export.forms import form_of
from twostage.export.session import is_exported
from twostage.files import check_writable, move_durably, temporary_folder
from twostage.results.own import replaceable
from twostage.sizes import parse_size


def run_from_arguments(args: argparse.Namespace) -> None:
    """Export, compare with torch, and print the comparison; a file that differs does not stay.

    Raises:
        UserError: anything wrong in config or size, a system that is not exported, files that differ from torch, or one of
            somebody else's where they would go.
    """
    output = Path(args.output)
    if output.suffix != ".onnx":
        raise UserError(f"--output is '{output}'; give a file that ends in .onnx")
    dynamic = args.size == "dynamic"
    stretch: list[str] = []
    if not dynamic:
        height, width = parse_size(args.size, "--size")
        stretch = ["INPUT.RESIZE_TEST", "stretch", "INPUT.SIZE_TEST", f"({height}, {width})"]
    cfg = load_config(args.config_file, [*args.opts, "MODEL.DEVICE", "cpu", *stretch])
    check_writable(output.parent, "choose another --output")
    _say_what_is_replaced((output, text_file(output)))
    segmenter = Segmenter(build_from_config(cfg), cfg)
    # The first picture is traced with; the others have other sizes.
    first, *pictures = toybox_pictures(1 + args.pictures)
    # Beside the place where it goes, so that nobody takes it for one that was compared.
    with temporary_folder(output) as folder:
        unchecked = folder / output.name
        export(segmenter, unchecked, dynamic=dynamic, picture=first, half=args.precision == "float16")
        result = compare(segmenter, load_onnx(unchecked), pictures=pictures, strays=form_of(cfg).strays)
        print(result.summary())
        result.check()
        # A network beside a tower of another export is noticed when it is loaded.
        move_durably(text_file(unchecked), text_file(output))
        move_durably(unchecked, output)
    for path in (output, text_file(output)):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _say_what_is_replaced(files: Sequence[Path]) -> None:
    """A line about an earlier export. Raises UserError where a file is somebody else's."""
    there = replaceable(files, is_exported)
    if there:
        print(f"note: {', '.join(map(str, there))} of an earlier export will be replaced")

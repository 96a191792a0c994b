"""Label a picture that is too large for one look: `twostage large`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from twostage.api import Segmenter, build_from_config
from twostage.commands.segment import asked_words, say_what_is_replaced
from twostage.config import load_config
from twostage.contrast.choice import parse_others
from twostage.data.images import read_rgb
from twostage.errors import UserError
from twostage.files import check_writable
from twostage.large.geotiff import GeoTiff, label_writer
from twostage.large.tiling import ArraySource, Tiling, label_blocks
from twostage.predictions.prediction import UNLABELLED
from twostage.results.saving import save_label_map

# Sensors of 10 to 14 bits leave the upper part of 16 empty; photographs do not.
_DARK = 0.3


def run_from_arguments(args: argparse.Namespace) -> None:
    """Label the picture and print what covers how much.

    Raises:
        UserError: anything wrong in config, words or picture, or an output that fits none.
    """
    source_path, output = Path(args.source), Path(args.output)
    geo = output.suffix.lower() in (".tif", ".tiff")
    if not geo and output.suffix.lower() != ".png":
        raise UserError(f"--output is '{output}'; give a file that ends in .png or .tif")
    if not source_path.is_file():
        raise UserError(f"picture '{source_path}' does not exist")
    if output.exists() and output.samefile(source_path):
        raise UserError(f"--output is the picture itself, '{source_path}', which would be lost; give another file")
    cfg = load_config(args.config_file, args.opts)
    vocabulary = asked_words(cfg, args.vocabulary)
    check_writable(output.parent, "choose another --output")
    say_what_is_replaced(output.parent, [output])
    source = GeoTiff(source_path) if geo else ArraySource(read_rgb(source_path))
    segmenter = Segmenter(build_from_config(cfg), cfg)
    keys = cfg.TEST.LARGE
    tiling = Tiling(keys.TILE, keys.OVERLAP, keys.MEMORY * 2**20)
    blocks = label_blocks(segmenter, source, vocabulary, tiling, others=parse_others(args.others))
    counts = np.zeros(len(vocabulary) + 2, np.int64)
    if isinstance(source, GeoTiff):
        with label_writer(output, source.size, vocabulary.names, source.place) as write:
            for window, labels in blocks:
                valid = source.valid(window)
                write(window, np.where(valid, labels, UNLABELLED))
                counts += np.bincount(np.where(valid, labels + 2, 0).flatten(), minlength=len(counts))
        source.close()
        if source.brightest < _DARK:
            print(
                f"note: no pixel is brighter than {100 * source.brightest:.0f} % of what its bits hold, so that the picture "
                "was taken for a dark one; scale it first (gdal_translate -scale)"
            )
    else:
        whole = np.empty(source.size, np.int32)
        for window, labels in blocks:
            whole[window.top : window.top + window.height, window.left : window.left + window.width] = labels
            counts += np.bincount(labels.flatten() + 2, minlength=len(counts))
        save_label_map(whole, vocabulary.names, output, durable=True)
    for name, count in zip(("no data", "none of the words", *vocabulary.names), counts, strict=True):
        if count:
            print(f"{name}: {100 * count / counts.sum():.1f} %")

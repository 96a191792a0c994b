"""Segment pictures with words of one's own; see `tools/demo.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from twostage.api import Segmenter, build_from_config
from twostage.config import load_config
from twostage.data.images import list_images, unique_stems
from twostage.data.views import find_info, own_folders, with_class_names
from twostage.errors import UserError
from twostage.files import check_writable
from twostage.vocabulary import Vocabulary


def run_from_arguments(args: argparse.Namespace) -> None:
    """Segment the pictures, write what was asked for and print what covers how much.

    Raises:
        UserError: anything wrong in config, words or pictures; pictures that can be read are done nevertheless.
    """
    # Everything that can be wrong is looked at before the model is built.
    cfg = load_config(args.config_file, args.opts)
    known = own_folders(cfg).get(args.vocabulary) or find_info(args.vocabulary)
    named = with_class_names(known, cfg.DATASETS.CLASS_NAMES) if known else None
    vocabulary = Vocabulary.of(named) if named else Vocabulary.parse(args.vocabulary)
    things = Vocabulary.parse(args.things).names if args.things is not None else ()
    unknown = [name for name in things if name not in vocabulary.names]
    if unknown:
        raise UserError(f"--things has {unknown[0]!r}, which is not in the vocabulary")
    if not 0 <= args.min_score <= 1:
        raise UserError(f"--min-score is {args.min_score}; it must lie between 0 and 1")
    images = list_images(args.input)
    output = Path(args.output)
    check_writable(output, "choose another --output")
    if any(Path(folder).is_dir() and Path(folder).samefile(output) for folder in args.input):
        print(
            f"note: results go into the folder of the pictures, '{output}'; a later run does not take them as pictures"
        )
    segmenter = Segmenter(build_from_config(cfg), cfg)
    # Also checks the words, before the first picture.
    segmenter.model.embed_vocabulary(vocabulary)
    broken = []
    for path, stem in tqdm(zip(images, unique_stems(images), strict=True), total=len(images), desc="segmenting"):
        try:
            result = segmenter(path, vocabulary)
        except UserError as error:
            # The other pictures still get done.
            broken.append(f"{error}")
            continue
        result.save(output, stem)
        if args.things is not None:
            result.panoptic(things, score_threshold=args.min_score).save(output, stem)
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in result.areas().items())
        tqdm.write(f"{path}: {shares}")
    if broken:
        raise UserError(f"{len(broken)} of {len(images)} pictures were skipped: {'; '.join(broken)}")

"""Label many pictures, on one machine or several: `twostage label`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from twostage.commands.segment import asked_words
from twostage.config import load_config
from twostage.contrast.choice import parse_others
from twostage.errors import UserError
from twostage.files import check_writable
from twostage.labelling import local, ray_engine
from twostage.labelling.estimate import estimate
from twostage.labelling.labeller import Labeller
from twostage.labelling.shards import Output
from twostage.labelling.sources import import_parquet, units_hash, units_of


def run_from_arguments(args: argparse.Namespace) -> None:
    """Label every picture of the source that is not labelled, or with --dry-run say what that takes.

    Raises:
        UserError: anything wrong in config, words or source, or an output folder of another run.
    """
    output = Output(Path(args.output), args.format)
    opts = list(args.opts)
    cfg = load_config(args.config_file, opts)
    vocabulary = asked_words(cfg, args.vocabulary)
    if "parquet" in args.format:
        import_parquet()
    units = units_of(args.source, shard_size=args.shard_size)
    if not sum(map(len, units)):
        raise UserError(f"source '{args.source}' holds no pictures")
    check_writable(output.folder, "choose another --output")
    # Embedded once, here; every process reads them from this folder.
    opts += ["MODEL.CLIP.TEXT_CACHE", str(output.folder.resolve() / "text")]
    labeller = Labeller(
        config_file=args.config_file,
        opts=tuple(opts),
        words=vocabulary.names,
        min_score=args.min_score,
        with_maps="png" in args.format,
        readers=args.readers,
    )
    labeller.others = labeller.segmenter.competitors(vocabulary, parse_others(args.others))
    labeller.embed()
    if args.dry_run:
        print(estimate(labeller, units, args.format).lines(args.processes))
        return
    source = {"source": args.source, "units": len(units), "shard_size": args.shard_size, "pictures": units_hash(units)}
    output.begin({**labeller.about(), **source})
    engine = {"local": local, "ray": ray_engine}[args.engine]
    engine.run(labeller, units, output, processes=args.processes)
    if local.rank_of(os.environ).total > 1:
        return
    counts = [output.counts(number) for number in range(len(units))]
    broken = sum(entry["broken"] for entry in counts)
    print(f"{sum(entry['pictures'] for entry in counts):,} pictures in '{output.folder}', {broken:,} of them broken")

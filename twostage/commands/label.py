"""Label many pictures, on one machine or several: `twostage label`."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
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
from twostage.labelling.sources import units_hash, units_of
from twostage.labelling.tables import import_parquet
from twostage.labelling.units import Unit
from twostage.machine import user_path
from twostage.vocabulary import Vocabulary

_TEXT = "text"


def run_from_arguments(args: argparse.Namespace) -> None:
    """Label every picture of the source that is not labelled, or with --dry-run say what that takes.

    Raises:
        UserError: anything wrong in config, words or source, or an output folder of another run.
    """
    rank = local.rank_of(os.environ)
    # Before anything is loaded, here or by torchrun's other processes on this machine.
    local.use_own_gpu(local.gpu_number(os.environ) * args.processes)
    if args.engine == "ray" and rank.total > 1:
        raise UserError("--engine ray is started once and brings its own processes; start it without torchrun or srun")
    if "parquet" in args.format:
        import_parquet()
    # What is wrong with the words is said before a large source is listed.
    vocabulary = asked_words(load_config(args.config_file, list(args.opts)), args.vocabulary)
    units = units_of(args.source, shard_size=args.shard_size)
    if not sum(map(len, units)):
        raise UserError(f"source '{args.source}' holds no pictures")
    if args.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            print(estimate(_labeller(args, vocabulary, Path(folder)), units, args.format).lines(args.processes))
        return
    output = Output(Path(args.output), args.format)
    # Others would list the same folder at the same time.
    check_writable(output.folder, "choose another --output", remove_killed=rank.number == 0)
    check_writable(output.folder / _TEXT, "choose another --output", remove_killed=rank.number == 0)
    labeller = _labeller(args, vocabulary, output.folder.resolve() / _TEXT)
    output.begin({**labeller.about(), **_about_source(args, units)})
    engine = {"local": local, "ray": ray_engine}[args.engine]
    engine.run(labeller, units, output, processes=args.processes)
    if rank.total > 1:
        return
    counts = [output.counts(number) for number in range(len(units))]
    broken = sum(entry["broken"] for entry in counts)
    print(f"{sum(entry['pictures'] for entry in counts):,} pictures in '{output.folder}', {broken:,} of them broken")


def _labeller(args: argparse.Namespace, vocabulary: Vocabulary, text_folder: Path) -> Labeller:
    """With all words embedded once, here; every process reads them from `text_folder`."""
    labeller = Labeller(
        config_file=args.config_file,
        opts=(*args.opts, "MODEL.CLIP.TEXT_CACHE", str(text_folder)),
        words=vocabulary.names,
        min_score=args.min_score,
        with_maps="png" in args.format,
        readers=args.readers,
    )
    labeller.others = labeller.segmenter.competitors(vocabulary, parse_others(args.others))
    labeller.embed()
    return labeller


def _about_source(args: argparse.Namespace, units: Sequence[Unit]) -> dict[str, object]:
    return {
        # Where it lies, however it was written.
        "source": str(user_path(args.source).resolve()),
        "units": len(units),
        "shard_size": args.shard_size,
        "pictures": units_hash(units),
    }

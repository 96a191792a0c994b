"""Segment pictures with words of one's own: `twostage segment` and `tools/demo.py`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from twostage.api import Segmentation, Segmenter, build_from_config
from twostage.config import load_config
from twostage.contrast.choice import parse_others
from twostage.data.images import list_images, unique_stems
from twostage.data.views import find_info, own_folders, with_class_names
from twostage.errors import UserError, near_names
from twostage.files import check_writable, write_text
from twostage.results.coco import joined
from twostage.results.own import replaceable
from twostage.vocabulary import Vocabulary

# Of all pictures of a run.
COCO_FILE = "coco.json"
# Competing words that are listed.
_SHOWN = 5
# What is written of a picture behind its name, by format; panoptic segments come with --things.
_ENDINGS = {"png": ("_overlay.png", "_labels.png"), "npz": (".npz",)}
_PANOPTIC = ("_panoptic.png", "_segments.png", "_segments.json")


def run_from_arguments(args: argparse.Namespace) -> None:
    """Segment the pictures, write what was asked for and print what covers how much.

    Raises:
        UserError: anything wrong in config, words or pictures; pictures that can be read are done nevertheless.
    """
    # Everything that can be wrong is looked at before the model is built.
    exported = None
    if getattr(args, "engine", None) is not None:
        engine, file = args.engine
        exported = _exported(engine, file, args.opts)
    cfg = load_config(args.config_file, args.opts) if exported is None else exported.cfg
    vocabulary = asked_words(cfg, args.vocabulary)
    things = _things(args.things, vocabulary)
    others = parse_others(args.others)
    images = list_images(args.pictures)
    stems = unique_stems(images)
    output = Path(args.output)
    check_writable(output, "choose another --output")
    say_what_is_replaced(output, _files(output, stems, args.format, panoptic=things is not None))
    if any(Path(folder).is_dir() and Path(folder).samefile(output) for folder in args.pictures):
        print(
            f"note: results go into the folder of the pictures, '{output}'; a later run does not take them as pictures"
        )
    segmenter = exported or Segmenter(build_from_config(cfg), cfg)
    rivals = segmenter.competitors(vocabulary, others)
    if rivals:
        print(f"competing with your words: {_shortened(rivals)} (--others none turns that off)")
    # Annotations of all pictures go into one file.
    single = [name for name in args.format if name != "coco"]
    broken: list[str] = []
    found: list[dict[str, Any]] = []
    # The words are checked before the first picture is read.
    results = segmenter.map(images, vocabulary, others=others, min_score=args.min_score)
    for path, stem, (_, result, error) in zip(images, stems, results, strict=True):
        if result is None:
            broken.append(f"{error}")
            continue
        if single:
            result.save(output, stem, format=single)
        if "coco" in args.format:
            found.append(result.to_coco(file_name=str(path)))
        if things is not None:
            result.panoptic(things, score_threshold=args.segment_score).save(output, stem)
        tqdm.write(f"{path}: {_shares(result)}")
    if "coco" in args.format:
        write_text(output / COCO_FILE, json.dumps(joined(found), ensure_ascii=False) + "\n")
    if broken:
        raise UserError(f"{len(broken)} of {len(images)} pictures were skipped: {'; '.join(broken)}")


def _exported(engine: str, path: str, opts: Sequence[str]) -> Segmenter:
    """The segmenter of an ONNX file. Raises UserError for an unknown engine, or config overrides, which come too late."""
    from twostage.export.engine import load_onnx

    runtimes = {"onnx": "onnxruntime", "openvino": "openvino"}
    if engine not in runtimes:
        raise UserError(
            f"there is no engine {engine!r}{near_names(engine, runtimes)}; there are: {', '.join(runtimes)}"
        )
    if opts:
        raise UserError(f"--engine takes no config overrides ({opts[0]}); give them to `twostage export`")
    return load_onnx(path, runtime=runtimes[engine])


def asked_words(cfg: CfgNode, text: str) -> Vocabulary:
    """What --words means: a folder of the config, a dataset with the config's class names, or what `Vocabulary.parse` takes.

    Raises:
        UserError: no names, or a path that is none of these.
    """
    known = own_folders(cfg).get(text) or find_info(text)
    named = with_class_names(known, cfg.DATASETS.CLASS_NAMES, own=cfg.DATASETS.AUTO_NAMES) if known else None
    return Vocabulary.of(named) if named else Vocabulary.parse(text)


def _things(text: str | None, vocabulary: Vocabulary) -> tuple[str, ...] | None:
    """The names of --things, None without it. Raises UserError where one is not in the vocabulary."""
    if text is None:
        return None
    things = Vocabulary.parse(text).names
    for name in things:
        if name not in vocabulary.names:
            near = near_names(name, vocabulary.names)
            raise UserError(f"--things has {name!r}, which is not in the vocabulary{near}")
    return things


def _shares(result: Segmentation) -> str:
    """What covers how much, and how much is none of the words."""
    shares = {**result.areas(), "none of the words": float((result.labels < 0).mean())}
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items() if share)


def _shortened(words: Sequence[str]) -> str:
    """The first of many words, and how many there are."""
    shown = ", ".join(words[:_SHOWN])
    return shown if len(words) <= _SHOWN else f"{shown} and {len(words) - _SHOWN} more"


def _files(output: Path, stems: Sequence[str], formats: Sequence[str], *, panoptic: bool) -> list[Path]:
    """Everything that a run writes."""
    endings = [ending for name in formats for ending in _ENDINGS.get(name, ())] + list(_PANOPTIC if panoptic else ())
    whole = [output / COCO_FILE] if "coco" in formats else []
    return [output / f"{stem}{ending}" for stem in stems for ending in endings] + whole


def say_what_is_replaced(output: Path, files: Sequence[Path]) -> None:
    """A line about results of an earlier run.

    Raises:
        UserError: a file of somebody else's has the name of a result.
    """
    there = replaceable(files)
    if there:
        print(f"note: {len(there)} files of an earlier run in '{output}' are replaced, such as '{there[0].name}'")

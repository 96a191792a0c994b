"""Label the frames of a video: `twostage video`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from twostage.api import Segmenter, build_from_config
from twostage.commands.segment import asked_words, say_what_is_replaced
from twostage.config import load_config
from twostage.contrast.choice import parse_others
from twostage.errors import UserError
from twostage.files import atomic_path, check_writable
from twostage.labelling.labeller import segments
from twostage.video.frames import read_frames, video_writer
from twostage.video.labels import label_frames
from twostage.visualization.overlay import draw_frame
from twostage.visualization.palette import palette

# What stands for none of the names in a label video, whose pixels have 8 bits.
_NONE = 255


def run_from_arguments(args: argparse.Namespace) -> None:
    """Write `labels.mkv`, `overlay.mp4` and `rows.jsonl`, a row per frame.

    Raises:
        UserError: anything wrong in config, words or video, or more names than a label video can tell apart.
    """
    cfg = load_config(args.config_file, args.opts)
    vocabulary = asked_words(cfg, args.vocabulary)
    if len(vocabulary) > _NONE:
        raise UserError(
            f"a label video tells {_NONE} names apart, these are {len(vocabulary)}; ask for fewer at a time"
        )
    frames, rate = read_frames(Path(args.source))
    output = Path(args.output)
    check_writable(output, "choose another --output")
    say_what_is_replaced(output, [output / name for name in ("labels.mkv", "overlay.mp4", "rows.jsonl")])
    segmenter = Segmenter(build_from_config(cfg), cfg)
    times: list[float] = []

    def pictures() -> Iterator[np.ndarray]:
        for frame in frames:
            times.append(frame.seconds)
            yield frame.pixels

    others = parse_others(args.others)
    colors = palette(len(vocabulary))
    results = label_frames(segmenter, pictures(), vocabulary, others=others, smooth=args.smooth)
    with (
        video_writer(output / "labels.mkv", rate, lossless=True) as write_labels,
        video_writer(output / "overlay.mp4", rate, lossless=False) as write_overlay,
        atomic_path(output / "rows.jsonl") as rows,
        rows.open("w", encoding="utf-8") as file,
    ):
        for number, result in enumerate(tqdm(results, desc="labelling", unit="frame")):
            write_labels(np.where(result.labels < 0, _NONE, result.labels).astype(np.uint8))
            write_overlay(draw_frame(result.image, result.labels, result.names, colors))
            row = {"frame": number, "seconds": times[number], "segments": segments(result)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        # Inside, so that nothing of an earlier run is replaced by nothing.
        if not times:
            raise UserError(f"'{args.source}' holds no frames that can be decoded")
    print(f"{len(times)} frames in '{output}'; names: {', '.join(vocabulary.names)}")

"""What `make demo` shows; see `tools/make_demo.py`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from PIL import Image

from twostage.api import find_config
from twostage.commands.arguments.learning import train_parser
from twostage.commands.setup import set_aside_earlier_run, set_up
from twostage.commands.train import evaluate
from twostage.config import load_config
from twostage.data.loaders import check_dataset
from twostage.data.views import dataset_view
from twostage.engine.trainer import Trainer
from twostage.errors import UserError
from twostage.evaluation.results import results_table, versions, write_json
from twostage.files import atomic_path, check_writable
from twostage.machine import settle_machine
from twostage.visualization.charts import loss_curves, read_metrics
from twostage.visualization.examples import example_picture, make_example, pick_images
from twostage.visualization.report import Example, Report, SystemResult, write_report

DATASET = "toybox_val_open"
SAN, BASELINE = "SAN", "dense CLIP"
ROWS = {SAN: "SAN, trained on the seen classes", BASELINE: "dense CLIP (MaskCLIP), untrained"}
TABLE = ("mIoU-seen", "mIoU-unseen", "mIoU-harmonic")


def run_from_arguments(args: argparse.Namespace) -> None:
    """Train, evaluate, and write pictures, report and summary into the output folder."""
    start = _start_time()
    check_writable(args.output)
    # It says that the demo is complete, so an older one must go first.
    (args.output / "summary.json").unlink(missing_ok=True)

    cfg = train(args.output, seed=args.seed, max_iter=args.max_iter)
    evaluate(_config("maskclip", args.output / "baseline", seed=args.seed))
    records = {SAN: _record(args.output), BASELINE: _record(args.output / "baseline")}
    examples = write_pictures(args.output / "pictures", records)
    minutes = (time.time() - start) / 60
    write_report(args.output / "report.html", make_report(cfg, records, examples, minutes=minutes))
    print(results_table([(ROWS[name], _pick(record["figures"])) for name, record in records.items()]), flush=True)
    print(f"report: {args.output / 'report.html'}")
    write_json(args.output / "summary.json", summary(records, minutes=minutes))


def train(output: Path, *, seed: int, max_iter: int) -> CfgNode:
    """Train SAN into `output` and evaluate it; returns its config."""
    cfg = _config("san", output, seed=seed, max_iter=max_iter)
    for name in (*cfg.DATASETS.TRAIN, DATASET):
        check_dataset(dataset_view(cfg, name))
    set_up(cfg, train_parser().parse_args([]))
    set_aside_earlier_run(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return cfg


def _config(name: str, output: Path, *, seed: int, max_iter: int = 0) -> CfgNode:
    opts = ["OUTPUT_DIR", str(output), "SEED", str(seed), "TEST.SAVE_PREDICTIONS", "True"]
    opts += ["DATASETS.TEST", f"('{DATASET}',)"]
    opts += ["SOLVER.MAX_ITER", str(max_iter)] if max_iter else []
    cfg = load_config(find_config(f"toybox/{name}"), opts)
    settle_machine(cfg)
    cfg.freeze()
    return cfg


def _start_time() -> float:
    """When `make demo` began (it hands the time over), so that the minutes include the installation."""
    given = os.environ.get("TWOSTAGE_DEMO_START", "")
    try:
        return float(given) if given else time.time()
    except ValueError:
        raise UserError(f"TWOSTAGE_DEMO_START is {given!r}; it must be seconds since 1970, or not set") from None


def _record(output: Path) -> dict[str, Any]:
    """The results file of an evaluation that wrote to `output`."""
    return json.loads((output / "inference" / f"results-{DATASET}.json").read_text(encoding="utf-8"))


def write_pictures(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> list[Example]:
    """Best to worst images of SAN as PNG; returns them for the report."""
    examples = []
    for title, file_name in pick_images(records[SAN]["images"]).items():
        example = make_example(title, file_name, records)
        with atomic_path(folder / f"{title.lower().replace(' ', '_')}.png") as path:
            Image.fromarray(example_picture(example)).save(path, format="PNG")
        examples.append(example)
    return examples


def make_report(
    cfg: CfgNode, records: Mapping[str, Mapping[str, Any]], examples: list[Example], *, minutes: float
) -> Report:
    """The page about this run."""
    ours, theirs = (records[name]["figures"]["mIoU-unseen"] for name in (SAN, BASELINE))
    times = f", {ours / theirs:.1f} times as much as" if theirs else " against"
    return Report(
        title="twostage demo: SAN on toybox",
        summary=f"A toy SAN learnt {len(records[SAN]['seen_classes'])} classes from masks. On "
        f"{len(records[SAN]['unseen_classes'])} classes that it only knows by name it reaches {ours:.1f}\u00a0% mIoU{times} "
        f"untrained dense CLIP ({theirs:.1f}\u00a0%).",
        systems=[SystemResult.from_record(ROWS[name], record) for name, record in records.items()],
        class_names=records[SAN]["class_names"],
        unseen=records[SAN]["unseen_classes"],
        examples=examples,
        curves=loss_curves(read_metrics(Path(cfg.OUTPUT_DIR) / "metrics.json")),
        config=cfg.dump(),
        environment={
            "evaluated on": f"{DATASET}, {records[SAN]['num_images']} images",
            "trained for": f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, seed {cfg.SEED}",
            "took": f"{minutes:.1f} minutes in all",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {cfg.MODEL.DEVICE}"
            + (f" ({torch.cuda.get_device_name()})" if cfg.MODEL.DEVICE.startswith("cuda") else ""),
            "config (sha256)": records[SAN]["config_sha256"],
            **versions(),
        },
    )


def summary(records: Mapping[str, Mapping[str, Any]], *, minutes: float) -> dict[str, float]:
    """The demo's figures: mIoU in percent, minutes since its start."""
    san, baseline = records[SAN]["figures"], records[BASELINE]["figures"]
    return {
        "seen_miou": san["mIoU-seen"],
        "unseen_miou": san["mIoU-unseen"],
        "harmonic_miou": san["mIoU-harmonic"],
        "baseline_unseen_miou": baseline["mIoU-unseen"],
        "minutes": round(minutes, 2),
    }


def _pick(figures: Mapping[str, float]) -> dict[str, float]:
    return {key: figures[key] for key in TABLE}

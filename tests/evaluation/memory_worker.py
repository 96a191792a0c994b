"""Peak memory of an evaluation: `memory_worker.py CONFIG CLASSES FOLDER` evaluates a system with random weights on one
1024 x 1024 image whose label holds as many of CLASSES classes as fit, and prints the peak resident memory in MiB."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import twostage.systems  # noqa: F401  # isort: skip  (before detectron2: makes torchvision importable)

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from twostage.api import find_config
from twostage.config import load_config
from twostage.data.labels import write_label_map
from twostage.engine.run import evaluate

SIDE = 1024


def register(folder: Path, classes: int) -> None:
    """The dataset "memory" of one image in `folder`."""
    rng = np.random.default_rng(0)
    picture, label = folder / "a.jpg", folder / "a.png"
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(picture)
    # Blocks of 8 x 8 pixels: 16,384 regions.
    write_label_map(label, rng.integers(256, classes, (SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1))
    records = [{"file_name": str(picture), "sem_seg_file_name": str(label)}]
    DatasetCatalog.register("memory", lambda: records)
    MetadataCatalog.get("memory").set(
        stuff_classes=[f"thing {i}" for i in range(classes)],
        ignore_label=65535,
        evaluator_type="sem_seg",
        image_root=str(folder),
        sem_seg_root=str(folder),
    )


def main(config: str, classes: int, folder: Path) -> None:
    register(folder, classes)
    cfg = load_config(
        find_config(config),
        ["MODEL.CLIP.PRETRAINED", "", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "single",
         "MODEL.CLIP.TEXT_CACHE", "", "DATASETS.TEST", "('memory',)", "OUTPUT_DIR", str(folder / "output")],
    )  # fmt: skip
    evaluate(cfg)
    record = json.loads((folder / "output" / "inference" / "results-memory.json").read_text())
    print(json.dumps({"peak_rss_mib": record["memory"]["peak_rss_mib"], "classes": len(record["class_names"])}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

"""Peak memory of an evaluation: `memory_worker.py CONFIG CLASSES SIDE FOLDER [KEY VALUE ...]` evaluates a system with random
weights on one SIDE x SIDE image whose label holds as many of CLASSES classes as fit, and prints the peak resident memory in
MiB. What the system sees is resized as its config says.

    for n in 847 10000; do python tests/evaluation/memory_worker.py toybox/san $n 1024 output/memory-$n; done
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import twostage  # noqa: F401  isort: skip  (first: finds Detectron2)
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from twostage.api import find_config
from twostage.commands.train import evaluate
from twostage.config import load_config
from twostage.data.labels import write_label_map


def register(folder: Path, classes: int, side: int) -> None:
    """The dataset "memory" of one image in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    picture, label = folder / "a.jpg", folder / "a.png"
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(picture)
    # Blocks of 8 x 8 pixels; values above 255 make it a 16-bit file.
    write_label_map(label, rng.integers(256, classes, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1))
    records = [{"file_name": str(picture), "sem_seg_file_name": str(label)}]
    DatasetCatalog.register("memory", lambda: records)
    MetadataCatalog.get("memory").set(
        stuff_classes=[f"thing {i}" for i in range(classes)],
        ignore_label=65535,
        evaluator_type="sem_seg",
        image_root=str(folder),
        sem_seg_root=str(folder),
    )


def main(config: str, classes: int, side: int, folder: Path, *opts: str) -> None:
    register(folder, classes, side)
    cfg = load_config(
        find_config(config),
        ["MODEL.CLIP.PRETRAINED", "", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "single",
         "MODEL.CLIP.TEXT_CACHE", "", "DATASETS.TEST", "('memory',)", "OUTPUT_DIR", str(folder / "output"), *opts],
    )  # fmt: skip
    evaluate(cfg)
    record = json.loads((folder / "output" / "inference" / "results-memory.json").read_text())
    print(json.dumps({"peak_rss_mib": record["memory"]["peak_rss_mib"], "classes": len(record["class_names"])}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])

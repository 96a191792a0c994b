"""One process of the two-process evaluation test: `shard_worker.py RANK WORLD_SIZE FOLDER`.

Evaluates its share of the dataset in FOLDER and writes what `evaluate` returned to FOLDER/rank<RANK>.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import twostage  # noqa: F401  isort: skip  (first: finds Detectron2)
import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import InferenceSampler

from twostage.commands.launch import leave_process_group
from twostage.data.labels import read_label_map
from twostage.data.views import dataset_info
from twostage.evaluation.measures import BoundaryMeasure
from twostage.evaluation.oracles import OracleMeasure
from twostage.evaluation.semantic import SemanticSegmentationEvaluator


def main(rank: int, world_size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    dataset = json.loads((folder / "dataset.json").read_text())
    MetadataCatalog.get("sharded").set(**dataset["metadata"])
    measures = [BoundaryMeasure, OracleMeasure]
    evaluator = SemanticSegmentationEvaluator(
        dataset_info("sharded"), output_dir=folder / f"out{rank}", measures=measures
    )
    evaluator.begin({"weights_sha256": "x"}, resume=False)
    for index in InferenceSampler(len(dataset["records"])):
        record = dataset["records"][index]
        prediction = torch.from_numpy(read_label_map(record["prediction"]))
        evaluator.process([record], [{"sem_seg_labels": prediction}])
    results = evaluator.evaluate()
    files = [Path(image.file_name).name for image in evaluator.images]
    (folder / f"rank{rank}.json").write_text(json.dumps({"results": results, "files": files}))
    leave_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

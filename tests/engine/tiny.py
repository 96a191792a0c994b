"""A system and a dataset small enough to train in milliseconds, through the whole real machinery.

As a script (`python tiny.py FOLDER PROCESSES plain|nan|san`) it trains and evaluates in PROCESSES processes and writes
`result.json` (each iteration's samples and losses, evaluation, sums of weights) and, at the interpreter's end,
`threads<rank>.json` (names of the process's threads) into FOLDER.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import twostage  # noqa: F401  isort: skip  (first: finds Detectron2)
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from PIL import Image
from torch import nn

from twostage.commands.launch import launch
from twostage.commands.setup import set_up
from twostage.config import default_config
from twostage.engine.trainer import Trainer

CLASSES = ["floor", "wall", "ball"]


@META_ARCH_REGISTRY.register()
class TinySystem(nn.Module):
    """Two convolutions; per-image cross-entropy, with dropout drawn from torch's global generator when `noise` is set."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.noise = cfg.MODEL.CLIP.NAME == "noise"
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Conv2d(8, len(CLASSES), 1)
        self.pos_embed = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        losses = []
        for entry in batch:
            features = self.norm(self.backbone(entry["image"][None].float() / 255)) + self.pos_embed
            if self.noise and self.training:
                features = features + 0.1 * torch.rand_like(features)
            logits = self.head(features.relu())
            if not self.training:
                logits = nn.functional.interpolate(logits, size=(entry["height"], entry["width"]))
                return [{"sem_seg_labels": logits[0].argmax(0)}]
            losses.append(nn.functional.cross_entropy(logits, entry["sem_seg"][None], ignore_index=255))
        loss = torch.stack(losses).mean()
        return {"loss_seg": loss, "loss_small": 0.1 * self.head.weight.square().mean()}


class ImageCounter(DatasetEvaluator):
    """How many images were evaluated, each of them once."""

    def reset(self) -> None:
        self.files: list[str] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.files += [entry["file_name"] for entry in inputs]

    def evaluate(self) -> dict[str, Any]:
        files = [file for part in comm.gather(self.files) for file in part]
        assert len(files) == len(set(files))
        return {"count": {"images": float(len(files))}} if comm.is_main_process() else {}


class TinyTrainer(Trainer):
    """Our trainer, which also counts the images it evaluates."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return DatasetEvaluators([super().build_evaluator(cfg, dataset_name), ImageCounter()])


def write_dataset(folder: Path, count: int = 7) -> None:
    """`count` images of different sizes with labels 0..2 and 255, and their registration as tiny_train and tiny_val."""
    draw = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        height, width = 40 + 3 * index, 56 - 2 * index
        labels = (np.add.outer(np.arange(height), np.arange(width)) // 16 + index) % 3
        colour = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
        image = np.clip(colour + draw.integers(-40, 40, colour.shape), 0, 255).astype(np.uint8)
        labels[:4] = 255
        if index % 2:
            labels[labels == 2] = 255  # so that images differ in their number of classes
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(labels.astype(np.uint8)).save(folder / "labels" / f"{index}.png")


def register_dataset(folder: Path) -> None:
    """Register the images in `folder` as tiny_train and tiny_val."""
    names = sorted(path.name for path in (folder / "images").iterdir())
    records = [
        {"file_name": str(folder / "images" / name), "sem_seg_file_name": str(folder / "labels" / name)}
        for name in names
    ]
    for name in ("tiny_train", "tiny_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            stuff_classes=CLASSES,
            ignore_label=255,
            evaluator_type="sem_seg",
            image_root=str(folder / "images"),
            sem_seg_root=str(folder / "labels"),
        )


def tiny_config(data: Path, output: Path, **changes: Any) -> CfgNode:
    """Four iterations of batch 4; `changes` are config keys with `__` for the dot."""
    register_dataset(data)
    cfg = default_config()
    cfg.MODEL.META_ARCHITECTURE = "TinySystem"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny_train",), ("tiny_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (24, 32, 48)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [32, 32]
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.PAD_TO = 32
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 4, 4
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_ITERS = 0.01, 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 0.5
    cfg.OUTPUT_DIR, cfg.SEED = str(output), 7
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    output.mkdir(parents=True, exist_ok=True)
    return cfg


def san_config(data: Path, output: Path) -> CfgNode:
    """The tiny recipe with a SAN of two thin blocks on a CLIP with random weights."""
    cfg = tiny_config(data, output, MODEL__META_ARCHITECTURE="SAN", SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.01)
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED, cfg.MODEL.CLIP.TEXT_CACHE = "toybox-vit", "", ""
    cfg.MODEL.CLIP.TEMPLATES = "single"
    cfg.MODEL.SAN.CLIP_RESOLUTION, cfg.MODEL.SAN.SPLIT_BLOCK, cfg.MODEL.SAN.FUSION_MAP = 1.0, 1, ["0->0", "1->1"]
    cfg.MODEL.SAN.NUM_QUERIES, cfg.MODEL.SAN.WIDTH, cfg.MODEL.SAN.DEPTH, cfg.MODEL.SAN.HEADS = 8, 16, 2, 2
    cfg.MODEL.SAN.PATCH_SIZE, cfg.MODEL.SAN.IMAGE_SIZE, cfg.MODEL.SAN.SIZE_DIVISIBILITY = 8, 32, 8
    cfg.MODEL.SAN.AUXILIARY_BLOCKS, cfg.MODEL.SAN.DECODER_CHANNELS = [1], 8
    cfg.MODEL.MASK_LOSS.NUM_POINTS = 64
    return cfg


def spread_points(*shape: Any, **_: Any) -> torch.Tensor:
    """Stands in for `torch.rand` `[..., P, 2]`: the same evenly spread points in every row, whoever asks."""
    sizes = tuple(shape[0]) if not isinstance(shape[0], int) else shape
    place = torch.arange(sizes[-2], dtype=torch.float64)[:, None]
    steps = torch.tensor([0.7548776662466927, 0.5698402909980532], dtype=torch.float64)
    return (place * steps % 1).float().expand(sizes).clone()


def build_trainer(cfg: CfgNode, trainer: type[Trainer] = TinyTrainer) -> Trainer:
    """A trainer whose model starts from weights that depend on the config's seed alone."""
    torch.manual_seed(int(cfg.SEED))
    return trainer(cfg)


def read_metrics(output: Path) -> list[dict[str, float]]:
    """The lines of metrics.json."""
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


class EveryIteration(TinyTrainer):
    """Notes each iteration's losses and files, gathered in rank order, in `history`."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.history: list[dict[str, Any]] = []

    def run_step(self) -> None:
        loader = self._trainer._data_loader_iter
        batch = next(loader)
        self._trainer._data_loader_iter_obj = _Prepended(batch, loader)
        super().run_step()
        seen = [(Path(e["file_name"]).name, int(e["image"].sum()), int(e["sem_seg"].sum())) for e in batch]
        losses = {k: v[0] for k, v in self.storage.latest().items() if "loss" in k}
        self.history.append({"samples": [s for part in comm.all_gather(seen) for s in part], **losses})


class _Prepended:
    def __init__(self, first: Any, rest: Any) -> None:
        self.first, self.rest = [first], rest

    def __iter__(self) -> _Prepended:
        return self

    def __next__(self) -> Any:
        return self.first.pop() if self.first else next(self.rest)


def _write_threads(file: Path) -> None:
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        # One that ended after it was listed.
        with contextlib.suppress(OSError):
            names.append(thread.read_text().strip())
    file.write_text(json.dumps(names))


def _main(folder: str, mode: str) -> None:
    import argparse

    atexit.register(_write_threads, Path(folder) / f"threads{comm.get_rank()}.json")
    cfg = (san_config if mode == "san" else tiny_config)(Path(folder).parent / "data", Path(folder))
    if mode == "san":
        torch.rand = spread_points
    if mode == "nan":
        cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_GRADIENTS.ENABLED = 1e30, False
    set_up(cfg, argparse.Namespace(config_file="", eval_only=False))
    trainer = build_trainer(cfg, EveryIteration)
    results = trainer.train()
    weights = {name: value.double().sum().item() for name, value in trainer.module.state_dict().items()}
    if comm.is_main_process():
        content = {"history": trainer.history, "results": results, "weights": weights}
        (Path(folder) / "result.json").write_text(json.dumps(content))


if __name__ == "__main__":
    from twostage.errors import run_cli

    run_cli(lambda: launch(_main, processes=int(sys.argv[2]), device="cpu", args=(sys.argv[1], sys.argv[3])))

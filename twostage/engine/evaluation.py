"""One evaluation: a model over a dataset, continued where an earlier one was stopped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from twostage.contrast.choice import OthersChoice
from twostage.engine.hooks import on_terminal
from twostage.evaluation.background import BackgroundEvaluator, in_background
from twostage.evaluation.oracle_classes import OracleClasses
from twostage.evaluation.results import text_hash
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.evaluation.single_query import SingleQueries
from twostage.segmenter import OpenVocabularySegmenter

Records = list[dict[str, Any]]


def evaluate_dataset(
    cfg: CfgNode,
    model: nn.Module,
    name: str,
    evaluator: DatasetEvaluator,
    *,
    build_loader: Callable[..., Any],
    weights: str,
    resume: bool = False,
) -> dict[str, Any]:
    """Results of `model` on the dataset `name`; every process takes its part, rank 0 gets them.

    Args:
        evaluator: ours keeps a journal of finished images; another one just evaluates.
        build_loader: `(cfg, name)`, and with `finished` (file names) a loader of the other images.
        weights: sha256 of the model's weights.
        resume: count what a stopped evaluation of the same model and config finished.
    """
    finished: frozenset[str] = frozenset()
    network: nn.Module = model
    own = evaluator if isinstance(evaluator, SemanticSegmentationEvaluator) else None
    if own is not None:
        counted = own.begin({"weights_sha256": weights, "system_sha256": system_hash(cfg)}, resume=resume)
        if counted is None:
            return (own.finished_results() or {}) if comm.is_main_process() else {}
        finished = counted
        if isinstance(model, OpenVocabularySegmenter) and cfg.TEST.ORACLES:
            network = OracleClasses(model, own.dataset)
        if isinstance(model, OpenVocabularySegmenter) and cfg.TEST.SINGLE_QUERY:
            choice = OthersChoice(cfg.MODEL.CLIP.NAME, model.text)
            others = functools.partial(choice, others=None if cfg.TEST.OTHERS == "none" else cfg.TEST.OTHERS)
            network = SingleQueries(network, model=model, dataset=own.dataset, others=others)
    loader = build_loader(cfg, name, finished=finished) if finished else build_loader(cfg, name)
    quiet = not (comm.is_main_process() and on_terminal())
    with nullcontext() if own is None else in_background(own) as counting:
        shown = tqdm(_ReadableBatches(loader, counting), desc=name, unit="image", leave=False, disable=quiet)
        return inference_on_dataset(network, shown, counting or evaluator)


def system_hash(cfg: CfgNode) -> str:
    """sha256 of what in a config can change predictions and counts: without folders, datasets and numbers of workers."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = "", "", (), ()
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.SAVE_PREDICTIONS = 0, False
    return text_hash(cfg.dump())


class _ReadableBatches:
    """A loader without the records that could not be read, of which the evaluator is told."""

    def __init__(self, loader: Any, evaluator: BackgroundEvaluator | None) -> None:
        self._loader = loader
        self._evaluator = evaluator

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Records]:
        for batch in self._loader:
            for record in batch:
                if "broken" in record and self._evaluator is not None:
                    self._evaluator.skip(record, record["broken"])
            readable = [record for record in batch if "broken" not in record]
            if readable:
                yield readable

"""The evaluator that a dataset and a config ask for."""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from twostage.data.views import evaluated_view
from twostage.errors import UserError
from twostage.evaluation.measures import BoundaryMeasure, Measure
from twostage.evaluation.oracles import OracleMeasure
from twostage.evaluation.panoptic_quality import PanopticMeasure
from twostage.evaluation.proposal_recall import ProposalMeasure
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.evaluation.semantic_guided import SemanticGuidedMeasure
from twostage.evaluation.single_query import SingleQueryMeasure

# Key under TEST -> what it switches on.
_MEASURES: dict[str, type[Measure]] = {
    "BOUNDARY_IOU": BoundaryMeasure,
    "ORACLES": OracleMeasure,
    "PANOPTIC": PanopticMeasure,
    "PROPOSALS": ProposalMeasure,
    "SG_IOU": SemanticGuidedMeasure,
    "SINGLE_QUERY": SingleQueryMeasure,
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path | None = None) -> DatasetEvaluator:
    """The evaluator that a dataset's `evaluator_type` asks for.

    Args:
        cfg: the config; its `TEST` keys and `OUTPUT_DIR` matter.
        dataset_name: of a registered dataset, or one of `DATASETS.FOLDERS`.
        output_dir: folder of the results, default `OUTPUT_DIR/inference`.

    Raises:
        UserError: the dataset is of a kind that has no evaluator here.
    """
    info = evaluated_view(cfg, dataset_name)
    if info.kind != "sem_seg":
        raise UserError(f"dataset '{dataset_name}' has evaluator_type {info.kind!r}; only 'sem_seg' can be evaluated")
    return SemanticSegmentationEvaluator(
        info,
        output_dir=output_dir if output_dir is not None else Path(cfg.OUTPUT_DIR) / "inference",
        save_predictions=bool(cfg.TEST.SAVE_PREDICTIONS),
        measures=[measure for key, measure in _MEASURES.items() if cfg.TEST[key]],
        skip_broken=bool(cfg.TEST.SKIP_BROKEN),
        config_text=cfg.dump(),
    )

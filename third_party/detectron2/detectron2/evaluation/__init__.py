"""Evaluation of models on datasets."""

from detectron2.evaluation.evaluator import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.evaluation.sem_seg_evaluation import SemSegEvaluator
from detectron2.evaluation.testing import print_csv_format, verify_results

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "SemSegEvaluator",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]

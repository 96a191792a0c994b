"""The catalogue: every benchmark declared once, as data, and what the rest of the project asks it.

- `benchmarks.json`: folders, label width, ignore label, registered names, the papers' test sizes.
- `class_lists/*.json`: each class list with the variants that published systems use, and where they come from.
- `label_ids.json`, `pascal_context_val.txt`: what the original downloads hold.

>>> info = dataset_info("context_59_test_sem_seg")
>>> info.benchmark, info.split, info.num_classes, info.ignore_label
('pascal_context_59', 'val', 59, 255)
"""

from twostage.data.catalogue.benchmarks import Benchmark, Split, benchmarks, find_benchmark
from twostage.data.catalogue.class_lists import ClassList, ClassNames, class_list
from twostage.data.catalogue.info import DatasetInfo, class_list_hash, dataset_info

__all__ = [
    "Benchmark",
    "ClassList",
    "ClassNames",
    "DatasetInfo",
    "Split",
    "benchmarks",
    "class_list",
    "class_list_hash",
    "dataset_info",
    "find_benchmark",
]

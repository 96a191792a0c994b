"""The catalogue: every benchmark declared once, as data, and what the rest of the project asks it.

- `benchmarks.json`: folders, label width, ignore label, registered names, the papers' test sizes.
- `class_lists/*.json`: each class list with the variants that published systems use, and where they come from.
- `label_ids.json`, `pascal_context_val.txt`: what the original downloads hold.
"""

from twostage.data.catalogue.benchmarks import Benchmark, Split, benchmarks, find_benchmark
from twostage.data.catalogue.class_lists import ClassList, ClassNames, class_list
from twostage.data.catalogue.info import DatasetInfo, class_list_hash

__all__ = [
    "Benchmark",
    "ClassList",
    "ClassNames",
    "DatasetInfo",
    "Split",
    "benchmarks",
    "class_list",
    "class_list_hash",
    "find_benchmark",
]

"""Memory of a whole evaluation does not grow with the vocabulary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "opts"),
    [
        ("toybox/san", ()),
        # 128 x 128 patches: similarities with all names would be 655 MB, even before they are resized.
        ("toybox/maskclip", ("INPUT.MIN_SIZE_TEST", "1024", "INPUT.MAX_SIZE_TEST", "1024")),
        ("toybox/catseg", ()),
    ],
)
def test_peak_memory_of_many_classes(config: str, opts: tuple[str, ...], tmp_path: Path) -> None:
    """847 against 10,000 classes, in processes of their own. On the small image what grows with classes would stand out:
    one score per class and pixel would be 2.6 GB, a dense confusion matrix 800 MB."""
    worker = Path(__file__).with_name("memory_worker.py")
    peaks = {}
    for classes in (847, 10_000):
        command = [sys.executable, str(worker), config, str(classes), "256", str(tmp_path / str(classes)), *opts]
        output = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True).stdout
        result = json.loads(output.splitlines()[-1])
        assert result["classes"] == classes
        peaks[classes] = result["peak_rss_mib"]
    assert peaks[10_000] < 1.3 * peaks[847], peaks

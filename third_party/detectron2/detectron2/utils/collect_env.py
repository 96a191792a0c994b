"""The environment as text, for logs and bug reports: `python -m detectron2.utils.collect_env`."""

from __future__ import annotations

import importlib
import os
import sys

import torch
from tabulate import tabulate

import detectron2

_LIBRARIES = ("numpy", "torchvision", "PIL", "fvcore", "iopath", "cv2")


def collect_env_info() -> str:
    """A table of versions and devices, then torch's build settings."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", " ".join(sys.version.split())),
        ("detectron2", f"{detectron2.__version__} @{os.path.dirname(detectron2.__file__)}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("PyTorch debug build", torch.version.debug),
        ("GPU available", "Yes" if torch.cuda.is_available() else "No"),
    ]
    rows += [(f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    rows += [(name, _version(name)) for name in _LIBRARIES]
    return tabulate(rows) + "\n" + torch.__config__.show()


def _version(name: str) -> str:
    try:
        return str(getattr(importlib.import_module(name), "__version__", "version unknown"))
    except (ImportError, RuntimeError) as error:
        # A torchvision that was built for another torch raises RuntimeError.
        return f"not importable ({type(error).__name__})"


if __name__ == "__main__":
    print(collect_env_info())

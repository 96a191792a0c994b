"""twostage: open-vocabulary segmentation, two-stage, one-stage and training-free, behind one command line.

>>> import twostage
>>> segmenter = twostage.load("san_vitb", weights="san_vit_b_16.pth")
>>> result = segmenter(image, ["cat", "sofa, couch"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twostage.torchvision_shim import ensure_torchvision

# Before anything imports timm, open_clip or detectron2: all three import torchvision.
ensure_torchvision()

if TYPE_CHECKING:
    from twostage.api import Segmentation, Segmenter, load

__version__ = "0.1.0"
__all__ = ["Segmentation", "Segmenter", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import twostage` stays cheap for tools that only need a part.
    if name in __all__:
        from twostage import api

        return getattr(api, name)
    raise AttributeError(f"module 'twostage' has no attribute {name!r}")

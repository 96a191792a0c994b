"""twostage: open-vocabulary segmentation, two-stage, one-stage and training-free, behind one command line.

import twostage

segmenter = twostage.load("san_vitb", weights="san_vit_b_16.pth")
result = segmenter("photo.jpg", ["cat", "sofa, couch"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twostage import own_detectron2, torchvision_shim

# Both cost nothing until somebody imports torchvision (timm, open_clip and Detectron2 do) or Detectron2.
torchvision_shim.install()
own_detectron2.install()

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

"""Where masks come from, for systems that only name them."""

from __future__ import annotations

from typing import Literal, get_args

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup

# own: the system's own generator; superpixels: scikit-image's, which need no weights; folder: label maps on disk;
# system: a system of ours with its own config and weights; transformers: Mask2Former or EoMT of that library; sam, sam2: SAM
# or SAM 2 asked at a grid of points.
SourceName = Literal["own", "superpixels", "folder", "system", "transformers", "sam", "sam2"]
SuperpixelName = Literal["felzenszwalb", "slic"]


def _add(cfg: CN) -> None:
    cfg.MODEL.MASKS = CN()
    keys = cfg.MODEL.MASKS
    # See SourceName.
    keys.SOURCE = "own"
    # superpixels: which, see SuperpixelName. Felzenszwalb: scale, blur before, least size in pixels; SLIC: how many.
    keys.SUPERPIXELS = "felzenszwalb"
    keys.SCALE = 224.0
    keys.SIGMA = 0.9
    keys.MIN_SIZE = 224
    keys.COUNT = 64
    # folder: holds a label map for each picture, <name of the picture>.png (0: in no mask) or .npz (`instance_mask`).
    keys.FOLDER = ""
    # system: a config of ours (name or file) with masks of its own, and its weights ("": the config's).
    keys.CONFIG = ""
    keys.WEIGHTS = ""
    # transformers, sam2: a folder in that library's layout (config.json and weights), or a repository of its hub.
    keys.MODEL = ""
    # sam, sam2: points per side; masks with a lower predicted IoU, or less stable than this, are left out.
    keys.POINTS_PER_SIDE = 32
    keys.MIN_IOU = 0.4
    keys.MIN_STABILITY = 0.4
    # sam, sam2: points that are decoded together. On a processor 64 take as long, and five times the memory.
    keys.POINTS_PER_BATCH = 8


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.MASKS
    needed = {"folder": "FOLDER", "system": "CONFIG", "transformers": "MODEL", "sam2": "MODEL"}.get(keys.SOURCE)
    if needed and not keys[needed]:
        raise UserError(f"MODEL.MASKS.SOURCE is {keys.SOURCE!r}, which needs MODEL.MASKS.{needed}; set it")
    if keys.SIGMA < 0:
        raise UserError(f"MODEL.MASKS.SIGMA is {keys.SIGMA}; it must be 0 (no blur) or more")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.MASKS.SOURCE": get_args(SourceName),
            "MODEL.MASKS.SUPERPIXELS": get_args(SuperpixelName),
        },
        positive=(
            "MODEL.MASKS.SCALE",
            "MODEL.MASKS.MIN_SIZE",
            "MODEL.MASKS.COUNT",
            "MODEL.MASKS.POINTS_PER_SIDE",
            "MODEL.MASKS.POINTS_PER_BATCH",
        ),
        fraction=("MODEL.MASKS.MIN_IOU", "MODEL.MASKS.MIN_STABILITY"),
        paths=("MODEL.MASKS.FOLDER", "MODEL.MASKS.WEIGHTS"),
        check=_check,
    ),
)

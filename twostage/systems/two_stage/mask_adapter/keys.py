"""Keys of Mask-Adapter, besides those of FC-CLIP and MAFT+ that it stands on (`MODEL.FCCLIP`, `MODEL.MAFTP`)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.MASK_ADAPTER = CN()
    # The frozen system under the adapter: "fcclip", or "maftp" with its transfer (MODEL.MAFTP).
    cfg.MODEL.MASK_ADAPTER.BASE = "fcclip"
    # What is trained on: "warmup" ground-truth masks, "mixed" these and proposals that meet them. Inference is the same.
    cfg.MODEL.MASK_ADAPTER.PHASE = "mixed"
    # Where training starts without MODEL.WEIGHTS: a checkpoint of the base, ours or official ("": CLIP alone, which the
    # warm-up on FC-CLIP can do with), and one of the warm-up, of which the adapter is taken ("": a new one).
    cfg.MODEL.MASK_ADAPTER.BASE_WEIGHTS = ""
    cfg.MODEL.MASK_ADAPTER.WARMED_UP = ""
    # The adapter: its width, ConvNeXt blocks, channels of an encoded mask, and maps of a mask.
    cfg.MODEL.MASK_ADAPTER.WIDTH = 768
    cfg.MODEL.MASK_ADAPTER.BLOCKS = 3
    cfg.MODEL.MASK_ADAPTER.MASK_CHANNELS = 16
    cfg.MODEL.MASK_ADAPTER.MAPS = 16
    # Pixels of a higher probability are a proposal's mask.
    cfg.MODEL.MASK_ADAPTER.MASK_THRESHOLD = 0.5
    # Proposals that go through the adapter at a time at inference; the values are the same. 50 take as long, and more memory.
    cfg.MODEL.MASK_ADAPTER.QUERY_CHUNK = 16
    # Training: ground-truth masks of an image, at most; pairs of a proposal and its ground truth (mixed); the probability from
    # which on a pixel is a proposal's where pairs are sought, and the IoU above which it meets a ground truth.
    cfg.MODEL.MASK_ADAPTER.TRUTHS = 16
    cfg.MODEL.MASK_ADAPTER.PAIRS = 8
    cfg.MODEL.MASK_ADAPTER.PAIR_PROBABILITY = 0.4
    cfg.MODEL.MASK_ADAPTER.PAIR_IOU = 0.7
    # Weights of the losses: classes, and likeness of a pair's embeddings.
    cfg.MODEL.MASK_ADAPTER.CLASS_WEIGHT = 2.0
    cfg.MODEL.MASK_ADAPTER.COSINE_WEIGHT = 5.0


def _check(cfg: CN) -> None:
    channels = cfg.MODEL.MASK_ADAPTER.MASK_CHANNELS
    if channels % 4:
        raise UserError(f"MODEL.MASK_ADAPTER.MASK_CHANNELS is {channels}; it must be a multiple of 4")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.MASK_ADAPTER.BASE": ("fcclip", "maftp"),
            "MODEL.MASK_ADAPTER.PHASE": ("warmup", "mixed"),
        },
        positive=tuple(
            f"MODEL.MASK_ADAPTER.{name}"
            for name in ("WIDTH", "BLOCKS", "MASK_CHANNELS", "MAPS", "QUERY_CHUNK", "TRUTHS", "PAIRS")
        ),
        fraction=(
            "MODEL.MASK_ADAPTER.MASK_THRESHOLD",
            "MODEL.MASK_ADAPTER.PAIR_PROBABILITY",
            "MODEL.MASK_ADAPTER.PAIR_IOU",
        ),
        paths=("MODEL.MASK_ADAPTER.BASE_WEIGHTS", "MODEL.MASK_ADAPTER.WARMED_UP"),
        check=_check,
    ),
)

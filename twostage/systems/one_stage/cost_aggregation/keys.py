"""Variants of the aggregation in cost-aggregation systems (CAT-Seg, SED); the defaults are the published systems."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.COST_AGGREGATION = CN()
    keys = cfg.MODEL.COST_AGGREGATION
    # How classes exchange: "linear" attention among all, or softmax attention among the "nearest" in text.
    keys.CLASS_ATTENTION = "linear"
    # Classes that each class sees with "nearest", itself included.
    keys.NEAREST_CLASSES = 16
    # Feed-forward network of the class aggregation: "plain", a mixture of "experts" (sparse top-k gating), or
    # "shared_experts" (DeepSeekMoE: fine-grained routed experts beside shared ones, with load balancing).
    keys.FEED_FORWARD = "plain"
    keys.EXPERTS = 8  # routed ones
    keys.ACTIVE_EXPERTS = 2  # routed ones that a token goes through
    keys.SHARED_EXPERTS = 1
    keys.BALANCE_WEIGHT = 0.01
    # Spatial aggregation: the system's "own", or "deformable" (DCNv3, 3x3).
    keys.SPATIAL = "own"
    # Image-to-image correlation (ProxyCLIP): the cost map of embeddings averaged over similar pixels is not made ("none"),
    # takes the place of the plain one ("replace"), or comes as further channels beside it ("append").
    keys.IMAGE_CORRELATION = "none"
    # Whose similarity that is: of the "clip" embeddings themselves, or of the features of MODEL.VIT_GUIDE ("guide").
    keys.CORRELATION_FEATURES = "clip"
    # Pixels below this times the mean similarity are left out; factor of the softmax over the others.
    keys.CORRELATION_SHIFT = 1.2
    keys.CORRELATION_SCALE = 3.0


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.COST_AGGREGATION
    if keys.ACTIVE_EXPERTS > keys.EXPERTS:
        raise UserError(
            f"MODEL.COST_AGGREGATION.ACTIVE_EXPERTS {keys.ACTIVE_EXPERTS} must not be more than "
            f"MODEL.COST_AGGREGATION.EXPERTS {keys.EXPERTS}"
        )
    if keys.CORRELATION_FEATURES == "guide" and not cfg.MODEL.VIT_GUIDE.NAME:
        raise UserError(
            "MODEL.COST_AGGREGATION.CORRELATION_FEATURES 'guide' needs MODEL.VIT_GUIDE.NAME, the ViT it means"
        )


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.COST_AGGREGATION.CLASS_ATTENTION": ("linear", "nearest"),
            "MODEL.COST_AGGREGATION.FEED_FORWARD": ("plain", "experts", "shared_experts"),
            "MODEL.COST_AGGREGATION.SPATIAL": ("own", "deformable"),
            "MODEL.COST_AGGREGATION.IMAGE_CORRELATION": ("none", "replace", "append"),
            "MODEL.COST_AGGREGATION.CORRELATION_FEATURES": ("clip", "guide"),
        },
        positive=tuple(
            f"MODEL.COST_AGGREGATION.{key}"
            for key in (
                "NEAREST_CLASSES",
                "EXPERTS",
                "ACTIVE_EXPERTS",
                "SHARED_EXPERTS",
                "CORRELATION_SHIFT",
                "CORRELATION_SCALE",
            )
        ),
        check=_check,
    ),
)

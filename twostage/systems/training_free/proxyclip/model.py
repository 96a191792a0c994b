"""ProxyCLIP: frozen CLIP whose last block attends by the affinities of a frozen foundation model."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from twostage.systems.training_free.borrowed import BorrowedAffinities


@META_ARCH_REGISTRY.register()
class ProxyClip(BorrowedAffinities):
    """Windows go through CLIP and the foundation model on their own."""

    system = "ProxyCLIP"

    @configurable
    def __init__(self, *, beta: float, gamma: float, multiple: int, **borrowed: Any) -> None:
        """See `keys.py`; `borrowed` is `BorrowedAffinities`'."""
        super().__init__(**borrowed)
        self.tower = self.proxy_tower = self.borrowing_tower(beta=beta, gamma=gamma, multiple=multiple)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.PROXYCLIP` and what `BorrowedAffinities` reads."""
        keys = cfg.MODEL.PROXYCLIP
        return {
            **super().from_config(cfg),
            "beta": keys.BETA,
            "gamma": keys.GAMMA,
            "multiple": keys.WINDOW_MULTIPLE,
        }

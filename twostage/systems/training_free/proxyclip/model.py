"""ProxyCLIP: frozen CLIP whose last block attends by the affinities of a frozen foundation model."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.dense.proxy import ProxyTower, in_other_units, own_features
from twostage.clip.loading import clip_reader_from_config
from twostage.clip.statistics import CLIP_STATISTICS, PixelStatistics, PixelUnits
from twostage.clip.towers.vit import Tokens
from twostage.foundation.loading import IMAGENET_STATISTICS, foundation_from_config
from twostage.foundation.vit import FoundationVit
from twostage.systems.training_free.dense_clip.model import TrainingFree
from twostage.systems.training_free.proxyclip.weights import foundation_table


@META_ARCH_REGISTRY.register()
class ProxyClip(TrainingFree):
    """Frozen CLIP and a frozen foundation model; everything behind the features is `TrainingFree`'s."""

    @configurable
    def __init__(
        self,
        *,
        foundation: FoundationVit | None,
        beta: float,
        gamma: float,
        multiple: int,
        **training_free: Any,
    ) -> None:
        """See `keys.py`; without `foundation` CLIP's own patches give the affinities."""
        super().__init__(**training_free)
        self.foundation = foundation
        self.foundation_units = PixelUnits(IMAGENET_STATISTICS)
        self.clip_units = PixelUnits(
            _unrounded(PixelStatistics(training_free["pixel_mean"], training_free["pixel_std"]))
        )
        self.tower = ProxyTower(
            visual=self.tower.visual,
            features=own_features if foundation is None else self.foundation_features,
            beta=beta,
            gamma=gamma,
            multiple=multiple,
            position_rule=self.tower.position_rule,
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.PROXYCLIP`, `MODEL.FOUNDATION` and what `TrainingFree` reads."""
        keys = cfg.MODEL.PROXYCLIP
        return {
            **super().from_config(cfg),
            "read_clip": clip_reader_from_config(cfg, lacks="towers"),
            "foundation": foundation_from_config(cfg),
            "beta": keys.BETA,
            "gamma": keys.GAMMA,
            "multiple": keys.WINDOW_MULTIPLE,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` may be the foundation model's official checkpoint; CLIP's weights are then read from its own."""
        read_clip: Supply = self.read_clip
        return foundation_table(read_clip)

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """None where there is no foundation model."""
        return () if self.foundation is None else (self.checkpoint_table(),)

    def foundation_features(self, images: Tensor, _tokens: Tokens) -> Tensor:
        """The foundation model's patches `[B, C, h, w]` of images that are normalised for CLIP."""
        assert self.foundation is not None, "CLIP's own features are taken without one"
        own, other = self.clip_units, self.foundation_units
        return self.foundation(
            in_other_units(images, mean=own.mean, std=own.std, other_mean=other.mean, other_std=other.std)
        )


def _unrounded(given: PixelStatistics) -> PixelStatistics:
    """CLIP's statistics where `given` are those to fewer decimals: with these the released code undoes the normalisation."""
    differences = [
        abs(a - b) for ours, exact in zip(given, CLIP_STATISTICS, strict=True) for a, b in zip(ours, exact, strict=True)
    ]
    return CLIP_STATISTICS if max(differences) < 0.001 else given

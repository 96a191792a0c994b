"""What training-free systems share that borrow affinities from a second frozen model: ProxyCLIP, CorrCLIP, Trident."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.dense.proxy import ProxyTower, in_other_units, own_features, resize_map
from twostage.clip.loading import clip_reader_from_config
from twostage.clip.statistics import CLIP_STATISTICS, PixelStatistics, PixelUnits
from twostage.clip.towers.vit import require_vit
from twostage.foundation.loading import IMAGENET_STATISTICS, foundation_from_config
from twostage.foundation.sam import Sam
from twostage.foundation.vit import FoundationVit
from twostage.systems.training_free.dense_clip.model import TrainingFree
from twostage.systems.training_free.proxyclip.weights import foundation_table


class BorrowedAffinities(TrainingFree):
    """Frozen CLIP and a frozen foundation model; everything behind the features is `TrainingFree`'s."""

    # As messages call the system.
    system = ""

    def __init__(self, *, foundation: FoundationVit | Sam | None, **training_free: Any) -> None:
        """Without `foundation` CLIP's own patches give the affinities; the rest is `TrainingFree`'s."""
        super().__init__(**training_free)
        self.foundation = foundation
        self.foundation_units = PixelUnits(IMAGENET_STATISTICS)
        self.clip_units = PixelUnits(
            _unrounded(PixelStatistics(training_free["pixel_mean"], training_free["pixel_std"]))
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.FOUNDATION` and what `TrainingFree` reads."""
        made = super().from_config(cfg)
        require_vit(made["clip"].visual, cls.system)
        return {
            **made,
            "read_clip": clip_reader_from_config(cfg, lacks="towers"),
            "foundation": foundation_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` may be the foundation model's official checkpoint; CLIP's weights are then read from its own."""
        return foundation_table(self.read_clip, is_sam=isinstance(self.foundation, Sam))

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """None where there is no foundation model."""
        return () if self.foundation is None else (self.checkpoint_table(),)

    def borrowing_tower(self, *, beta: float, gamma: float, multiple: int) -> ProxyTower:
        """CLIP's tower that attends by the foundation model's affinities, or without one by its own; see `ProxyTower`."""
        return ProxyTower(
            visual=self.tower.visual,
            features=own_features if self.foundation is None else self.foundation_features,
            beta=beta,
            gamma=gamma,
            multiple=multiple,
            position_rule=self.tower.position_rule,
        )

    def in_foundation_units(self, images: Tensor) -> Tensor:
        """Images that are normalised for CLIP as the foundation model takes them."""
        own, other = self.clip_units, self.foundation_units
        return in_other_units(images, mean=own.mean, std=own.std, other_mean=other.mean, other_std=other.std)

    def foundation_features(self, images: Tensor, _tokens: Any = None) -> Tensor:
        """The foundation model's patches `[B, C, h, w]` of images that are normalised for CLIP."""
        assert self.foundation is not None, "CLIP's own features are taken without one"
        seen = self.in_foundation_units(images)
        if isinstance(self.foundation, Sam):
            seen = resize_map(seen, (self.foundation.side, self.foundation.side))
        return self.foundation(seen)


def _unrounded(given: PixelStatistics) -> PixelStatistics:
    """CLIP's statistics where `given` are those to fewer decimals: with these the released code undoes the normalisation."""
    differences = [
        abs(a - b) for ours, exact in zip(given, CLIP_STATISTICS, strict=True) for a, b in zip(ours, exact, strict=True)
    ]
    return CLIP_STATISTICS if max(differences) < 0.001 else given

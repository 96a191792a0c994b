"""Names of official MaskCLIP+ checkpoints (mmseg's) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename, Supply
from twostage.clip.towers.mmseg_names import DROPPED, FRESH, tower_renames
from twostage.systems.one_stage.maskclip_plus.card import CARDS

_HEAD = "decode_head."


def checkpoint_table(*, resnet_teacher: bool, read_clip: Supply | None = None) -> CheckpointTable:
    """The table of a model whose teacher is CLIP's ResNet, or its ViT; both heads, with and without a learned background.

    Args:
        read_clip: CLIP's own weights, for the text tower.
    """
    return CheckpointTable(
        system="MaskCLIP+",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_HEAD}_iter_counter", "iteration"),
            Rename(f"{_HEAD}bg_embeddings", "background_embedding"),
            *tower_renames(f"{_HEAD}clip.", _HEAD, resnet=resnet_teacher),
            *_network_renames(),
        ),
        dropped=DROPPED,
        fresh=FRESH,
        supply=read_clip,
    )


def _network_renames() -> list[Rename]:
    module = f"{_HEAD}decode_module."
    separable = [
        Rename(f"{module}{official}.{{i}}.{kind}_conv.", f"head.{ours}.{{i}}.{kind}.")
        for official, ours in (("aspp_modules", "branches"), ("sep_bottleneck", "refine"))
        for kind in ("depthwise", "pointwise")
    ]
    return [
        Rename("backbone.stem.7.", "backbone.bn1."),
        Rename("backbone.stem.", "backbone.conv1."),
        Rename("backbone.", "backbone."),
        *separable,
        Rename(f"{module}aspp_modules.", "head.branches."),
        Rename(f"{module}image_pool.1.", "head.image_pool."),
        Rename(f"{module}bottleneck.", "head.bottleneck."),
        Rename(f"{module}c1_bottleneck.", "head.low_level."),
    ]

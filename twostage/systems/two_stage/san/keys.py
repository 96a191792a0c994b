"""Keys of SAN."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.SAN = CN()
    # Scale of CLIP's input relative to the side adapter's.
    cfg.MODEL.SAN.CLIP_RESOLUTION = 0.5
    # CLIP blocks before this one extract features, the rest recognise masks.
    cfg.MODEL.SAN.SPLIT_BLOCK = 9
    # "clip block -> side adapter block" fusions; 0 is before the first block.
    cfg.MODEL.SAN.FUSION_MAP = ["0->0", "3->1", "6->2", "9->3"]
    cfg.MODEL.SAN.NUM_QUERIES = 100
    # Side adapter: a plain ViT.
    cfg.MODEL.SAN.WIDTH = 240
    cfg.MODEL.SAN.DEPTH = 8
    cfg.MODEL.SAN.HEADS = 6
    cfg.MODEL.SAN.PATCH_SIZE = 16
    cfg.MODEL.SAN.IMAGE_SIZE = 640  # of the position embedding
    # Side adapter blocks whose output is decoded in training in addition to the last one.
    cfg.MODEL.SAN.AUXILIARY_BLOCKS = [7]
    # Channels of the mask and attention-bias decoder.
    cfg.MODEL.SAN.DECODER_CHANNELS = 256
    # Images are zero-padded, after normalisation, to a multiple of this.
    cfg.MODEL.SAN.SIZE_DIVISIBILITY = 32


def _check(cfg: CN) -> None:
    san = cfg.MODEL.SAN
    if san.WIDTH % san.HEADS:
        raise UserError(f"MODEL.SAN.WIDTH {san.WIDTH} must be a multiple of MODEL.SAN.HEADS {san.HEADS}")
    if san.SIZE_DIVISIBILITY % san.PATCH_SIZE:
        raise UserError(
            f"MODEL.SAN.SIZE_DIVISIBILITY {san.SIZE_DIVISIBILITY} must be a multiple of "
            f"MODEL.SAN.PATCH_SIZE {san.PATCH_SIZE}"
        )
    for entry in san.FUSION_MAP:
        source, arrow, target = str(entry).partition("->")
        if not arrow or not source.strip().isdigit() or not target.strip().isdigit():
            raise UserError(
                f"MODEL.SAN.FUSION_MAP has {shown(entry)}; entries look like '3->1' (CLIP block -> side block)"
            )
        if int(source) > san.SPLIT_BLOCK or int(target) >= san.DEPTH:
            raise UserError(
                f"MODEL.SAN.FUSION_MAP has {shown(entry)}; CLIP blocks go up to MODEL.SAN.SPLIT_BLOCK {san.SPLIT_BLOCK}, "
                f"side blocks to {san.DEPTH - 1}"
            )
    for block in san.AUXILIARY_BLOCKS:
        if not 0 < block < san.DEPTH:
            raise UserError(f"MODEL.SAN.AUXILIARY_BLOCKS has {block}; allowed: 1 to {san.DEPTH - 1}")


GROUPS = (
    KeyGroup(
        add=_add,
        positive=(
            "MODEL.SAN.CLIP_RESOLUTION",
            "MODEL.SAN.NUM_QUERIES",
            "MODEL.SAN.WIDTH",
            "MODEL.SAN.DEPTH",
            "MODEL.SAN.HEADS",
            "MODEL.SAN.PATCH_SIZE",
            "MODEL.SAN.IMAGE_SIZE",
            "MODEL.SAN.DECODER_CHANNELS",
            "MODEL.SAN.SIZE_DIVISIBILITY",
        ),
        sides=("MODEL.SAN.PATCH_SIZE", "MODEL.SAN.IMAGE_SIZE", "MODEL.SAN.SIZE_DIVISIBILITY"),
        check=_check,
    ),
)

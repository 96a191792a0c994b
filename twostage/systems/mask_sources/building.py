"""`MODEL.MASKS` to a mask source."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.checkpoint.untrained import warn_if_untrained
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.foundation.loading import sam_from_config
from twostage.systems.loading import build_from_config
from twostage.systems.mask_sources.contract import MaskSource
from twostage.systems.mask_sources.folder import FolderMasks, existing_folder
from twostage.systems.mask_sources.of_system import SystemMasks
from twostage.systems.mask_sources.of_transformers import TransformersMasks
from twostage.systems.mask_sources.sam2_grid import Sam2Grid, read_sam2
from twostage.systems.mask_sources.sam_grid import SamGrid
from twostage.systems.mask_sources.superpixels import Superpixels


def mask_source_from_config(cfg: CfgNode) -> MaskSource:
    """The source of `MODEL.MASKS`.

    Raises:
        UserError: its folder, config or weights are missing, or a library is; "own" is a system's matter.
    """
    keys = cfg.MODEL.MASKS
    if keys.SOURCE == "superpixels":
        return Superpixels(
            kind=keys.SUPERPIXELS, scale=keys.SCALE, sigma=keys.SIGMA, min_size=keys.MIN_SIZE, count=keys.COUNT
        )
    if keys.SOURCE == "folder":
        return FolderMasks(folder=existing_folder(keys.FOLDER))
    if keys.SOURCE == "system":
        return _of_system(cfg)
    if keys.SOURCE == "transformers":
        return TransformersMasks.read(keys.MODEL)
    if keys.SOURCE in ("sam", "sam2"):
        grid = {
            "side": keys.POINTS_PER_SIDE,
            "min_iou": keys.MIN_IOU,
            "min_stability": keys.MIN_STABILITY,
            "batch": keys.POINTS_PER_BATCH,
        }
        if keys.SOURCE == "sam":
            return SamGrid(sam=sam_from_config(cfg).to(cfg.MODEL.DEVICE), **grid)
        return Sam2Grid(network=read_sam2(keys.MODEL).to(cfg.MODEL.DEVICE), **grid)
    raise UserError("MODEL.MASKS.SOURCE is 'own', but this system has no mask generator of its own; use another")


def _of_system(cfg: CfgNode) -> SystemMasks:
    keys = cfg.MODEL.MASKS
    opts = ["MODEL.DEVICE", cfg.MODEL.DEVICE]
    if keys.WEIGHTS:
        opts += ["MODEL.WEIGHTS", keys.WEIGHTS]
    try:
        own = load_config(find_config(keys.CONFIG), opts)
    except UserError as error:
        raise UserError(f"MODEL.MASKS.CONFIG: {error}") from error
    if own.MODEL.MASKS.SOURCE == "system":
        raise UserError(
            f"MODEL.MASKS.CONFIG {keys.CONFIG!r} takes its masks from yet another system, {own.MODEL.MASKS.CONFIG!r}; name a "
            "system that makes masks itself"
        )
    model = build_from_config(own)
    warn_if_untrained(model, own)
    return SystemMasks(model, own)

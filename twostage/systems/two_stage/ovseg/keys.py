"""Keys of OVSeg and zsseg."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup


def _add(cfg: CN) -> None:
    cfg.MODEL.OVSEG = CN()
    # Width inside the head that leads from queries to CLIP's embedding space.
    cfg.MODEL.OVSEG.EMBED_HIDDEN = 1024
    # Cosine similarities are multiplied by this; CLIP's own scale is not used.
    cfg.MODEL.OVSEG.LOGIT_SCALE = 100.0
    # Images are zero-padded, after normalisation, to a multiple of this.
    cfg.MODEL.OVSEG.SIZE_DIVISIBILITY = 32
    # Pixels of a higher mask probability are a proposal's region.
    cfg.MODEL.OVSEG.MASK_THRESHOLD = 0.4
    # False: the generator's class scores alone, CLIP never sees a crop.
    cfg.MODEL.OVSEG.ENSEMBLE = True
    # Share w of CLIP in generator^(1 - w) * clip^w. 0 is CLIP alone, with empty proposals left out.
    cfg.MODEL.OVSEG.ENSEMBLE_WEIGHT = 0.7
    # Dataset whose classes the generator was trained on: for these it is generator^w * clip^(1 - w) (zsseg's zero-shot
    # setting). "": every class counts as unseen.
    cfg.MODEL.OVSEG.SEEN_CLASSES_OF = ""
    # How CLIP looks at a proposal. crop: at a masked crop, with or without mask prompts (MASK_PROMPTS); mask_pool: at the
    # dense features inside the mask (of a ViT, a ConvNeXt or a ResNet); attention_bias: by a class token that sees only the
    # mask in the last blocks; mask_adapter: at the last stage of a ConvNeXt, weighted by the maps of a trained adapter
    # (MODEL.MASK_ADAPTER).
    cfg.MODEL.OVSEG.REGIONS = "crop"
    # Of mask_adapter: a checkpoint of Mask-Adapter on FC-CLIP, ours or official, of which the adapter is taken ("": random).
    cfg.MODEL.OVSEG.ADAPTER_WEIGHTS = ""
    # Of attention_bias: how many of CLIP's last blocks.
    cfg.MODEL.OVSEG.BIASED_BLOCKS = 3
    # Crops: what is painted outside the mask (CLIP's mean colour or black), growth of the box, and whether the mask
    # probability mixes image and background (matting) instead of the thresholded mask.
    cfg.MODEL.OVSEG.BACKGROUND = "mean"
    cfg.MODEL.OVSEG.EXPAND_RATIO = 1.0
    cfg.MODEL.OVSEG.MATTING = False
    # Side of a crop in pixels, whole patches; CLIP's position embedding and mask prompts are resized to it. 0: that of the
    # pictures CLIP takes, as published.
    cfg.MODEL.OVSEG.CROP_SIZE = 0
    # Blank patches of a crop become mask prompts (needs MODEL.CLIP.MASK_PROMPT_DEPTH).
    cfg.MODEL.OVSEG.MASK_PROMPTS = True
    # Crops per pass through CLIP; bounds the memory.
    cfg.MODEL.OVSEG.CROP_BATCH = 32
    # Free-vocabulary demo: of all proposals only the best one of every class votes, with its hard mask.
    cfg.MODEL.OVSEG.BEST_PROPOSALS_ONLY = False


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.OVSEG
    is_ovseg = cfg.MODEL.META_ARCHITECTURE == "OVSeg"
    prompted = keys.ENSEMBLE and keys.REGIONS == "crop" and keys.MASK_PROMPTS
    if is_ovseg and prompted and not cfg.MODEL.CLIP.MASK_PROMPT_DEPTH:
        raise UserError(
            "MODEL.OVSEG.MASK_PROMPTS is True, but MODEL.CLIP.MASK_PROMPT_DEPTH is 0; set it (OVSeg has 3) or switch the "
            "prompts off"
        )
    if is_ovseg and cfg.MODEL.MASKS.SOURCE != "own" and not keys.ENSEMBLE:
        raise UserError(
            f"MODEL.MASKS.SOURCE is {cfg.MODEL.MASKS.SOURCE!r}, whose masks only CLIP can name; it needs "
            "MODEL.OVSEG.ENSEMBLE True"
        )
    if is_ovseg and keys.REGIONS == "mask_adapter" and cfg.MODEL.MASK_ADAPTER.BASE != "fcclip":
        raise UserError(
            f"MODEL.MASK_ADAPTER.BASE is {cfg.MODEL.MASK_ADAPTER.BASE!r}, whose adapter reads a CLIP that MAFT+ trained and "
            "words that it transferred; MODEL.OVSEG.REGIONS 'mask_adapter' needs one on 'fcclip'"
        )
    if keys.BEST_PROPOSALS_ONLY and not keys.ENSEMBLE:
        raise UserError("MODEL.OVSEG.BEST_PROPOSALS_ONLY picks by CLIP's scores; it needs MODEL.OVSEG.ENSEMBLE True")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={
            "MODEL.OVSEG.BACKGROUND": ("mean", "zero"),
            "MODEL.OVSEG.REGIONS": ("crop", "mask_pool", "attention_bias", "mask_adapter"),
        },
        positive=(
            "MODEL.OVSEG.EMBED_HIDDEN",
            "MODEL.OVSEG.LOGIT_SCALE",
            "MODEL.OVSEG.SIZE_DIVISIBILITY",
            "MODEL.OVSEG.EXPAND_RATIO",
            "MODEL.OVSEG.CROP_BATCH",
            "MODEL.OVSEG.BIASED_BLOCKS",
        ),
        fraction=("MODEL.OVSEG.MASK_THRESHOLD", "MODEL.OVSEG.ENSEMBLE_WEIGHT"),
        paths=("MODEL.OVSEG.ADAPTER_WEIGHTS",),
        sides=("MODEL.OVSEG.SIZE_DIVISIBILITY", "MODEL.OVSEG.CROP_SIZE"),
        check=_check,
    ),
)

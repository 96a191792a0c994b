"""Keys of ODISE; its generator has those of `MODEL.MASK2FORMER`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError
from twostage.keys import KeyGroup

# Sides of pictures and crops are multiples of this: the coarsest stride of the UNet in pixels.
COARSEST_STRIDE = 64
_LEVELS = 4


def _add(cfg: CN) -> None:
    cfg.MODEL.ODISE = CN()
    # label: masks are classified over the training set's names and null; caption: as object or not, and by the words of
    # captions.
    cfg.MODEL.ODISE.SUPERVISION = "label"
    # CLIP's share in the geometric ensemble, for classes of the training set and for others.
    cfg.MODEL.ODISE.SEEN_WEIGHT = 0.3
    cfg.MODEL.ODISE.UNSEEN_WEIGHT = 0.7
    # Whose classes count as trained: a dataset by name, "odise:NAME" with a published system's class names for it, or a file
    # with one class a line; "": the first of DATASETS.TRAIN.
    cfg.MODEL.ODISE.TRAIN_VOCABULARY = ""
    # Side in pixels of what the diffusion model sees; pictures are cut into such squares, smaller ones are enlarged.
    cfg.MODEL.ODISE.CROP_SIZE = 512
    # Squares that go through the diffusion model at a time: memory against time, the values are the same.
    cfg.MODEL.ODISE.CROP_BATCH = 1
    # Channels of the feature maps that the generator reads, and inside the blocks that make them.
    cfg.MODEL.ODISE.FEATURE_WIDTH = 512
    cfg.MODEL.ODISE.BOTTLENECK_WIDTH = 128
    # Weight of the grounding loss (caption).
    cfg.MODEL.ODISE.GROUNDING_WEIGHT = 1.0
    cfg.MODEL.ODISE.DIFFUSION = CN()
    # Weights: a Stable Diffusion v1 file (.ckpt or .safetensors), a folder in diffusers' layout, "sd-v1-3.ckpt" (downloaded
    # where there is no such file), `hf://owner/repository/file`, an https address, "toybox" (shipped), or "" for random ones
    # (for a MODEL.WEIGHTS file that holds them as well, and for tests).
    cfg.MODEL.ODISE.DIFFUSION.PRETRAINED = ""
    # Channels of the four levels of autoencoder and UNet.
    cfg.MODEL.ODISE.DIFFUSION.VAE_CHANNELS = (128, 256, 512, 512)
    cfg.MODEL.ODISE.DIFFUSION.UNET_CHANNELS = (320, 640, 1280, 1280)
    cfg.MODEL.ODISE.DIFFUSION.HEADS = 8
    # Tokens of a prompt and their channels, as the UNet reads them.
    cfg.MODEL.ODISE.DIFFUSION.PROMPT_TOKENS = 77
    cfg.MODEL.ODISE.DIFFUSION.PROMPT_WIDTH = 768
    # Training computes the UNet's activations again for the gradients instead of keeping them.
    cfg.MODEL.ODISE.DIFFUSION.RECOMPUTE = True


def _check(cfg: CN) -> None:
    keys = cfg.MODEL.ODISE
    if keys.CROP_SIZE % COARSEST_STRIDE:
        raise UserError(f"MODEL.ODISE.CROP_SIZE is {keys.CROP_SIZE}; it must be a multiple of {COARSEST_STRIDE}")
    for name in ("VAE_CHANNELS", "UNET_CHANNELS"):
        channels = keys.DIFFUSION[name]
        if len(channels) != _LEVELS or any(c <= 0 or c % 32 for c in channels):
            raise UserError(
                f"MODEL.ODISE.DIFFUSION.{name} is {tuple(channels)}; give {_LEVELS} numbers, each a multiple of the 32 groups "
                "of its norms"
            )
    heads = keys.DIFFUSION.HEADS
    if any(c % heads for c in keys.DIFFUSION.UNET_CHANNELS):
        raise UserError(
            f"MODEL.ODISE.DIFFUSION.HEADS is {heads}; it must divide MODEL.ODISE.DIFFUSION.UNET_CHANNELS "
            f"{tuple(keys.DIFFUSION.UNET_CHANNELS)}"
        )
    for name in ("FEATURE_WIDTH", "BOTTLENECK_WIDTH"):
        if keys[name] % 32:
            raise UserError(f"MODEL.ODISE.{name} is {keys[name]}; it must be a multiple of the 32 groups of its norms")


GROUPS = (
    KeyGroup(
        add=_add,
        choices={"MODEL.ODISE.SUPERVISION": ("label", "caption")},
        positive=tuple(
            f"MODEL.ODISE.{name}"
            for name in (
                "CROP_SIZE",
                "CROP_BATCH",
                "FEATURE_WIDTH",
                "BOTTLENECK_WIDTH",
                "DIFFUSION.HEADS",
                "DIFFUSION.PROMPT_TOKENS",
                "DIFFUSION.PROMPT_WIDTH",
            )
        ),
        fraction=("MODEL.ODISE.SEEN_WEIGHT", "MODEL.ODISE.UNSEEN_WEIGHT"),
        sides=("MODEL.ODISE.CROP_SIZE",),
        check=_check,
    ),
)

"""Keys of datasets, of reading and augmenting pictures, and of pictures with captions."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.errors import UserError, shown
from twostage.keys import KeyGroup
from twostage.sizes import LONGEST_SIDE, check_size


def _add_data(cfg: CN) -> None:
    # Folders of your own (images/, labels/, classes.txt or classes.json), each "path" or "name=path". They are then
    # datasets to put into TRAIN and TEST; see twostage/data/catalogue/folders.py.
    cfg.DATASETS.FOLDERS = ()
    # Whose class names to ask for on the benchmarks: auto (those that belong to the registered name), or a published
    # system (catseg, san, fcclip, ...). Names move mIoU.
    cfg.DATASETS.CLASS_NAMES = "auto"
    # Whose auto takes under our own names of benchmarks (ade20k_150_val, and A-150 or "five" in an evaluation), where that
    # published system has some; "": CAT-Seg's and plain ones.
    cfg.DATASETS.AUTO_NAMES = ""
    # Further names that compete with the test sets' own classes and that no label holds: a file with one name per line, or
    # "toybox:N" for N names made from toybox's words. A pixel called by one of them is wrong.
    cfg.DATASETS.DISTRACTORS = ""
    # A set of captions (see twostage/data/captions.py) of the training pictures, for systems that learn words beside masks.
    cfg.DATASETS.CAPTIONS = ""
    # Leave broken training pictures and labels out, count and list them in the log, instead of stopping. (The command
    # option --skip-broken sets this and TEST.SKIP_BROKEN.)
    cfg.DATALOADER.SKIP_BROKEN = False
    cfg.INPUT.FORMAT = "RGB"
    # How test images are resized: pillow (Detectron2: smooths where it shrinks) | opencv (mmsegmentation: plain bilinear) |
    # stretch (to SIZE_TEST, whatever their shape; by Pillow).
    cfg.INPUT.RESIZE_TEST = "pillow"
    # True: systems that look at a picture at its own size as well (Trident's SAM, masks from anywhere) are handed it
    # beside the resized one.
    cfg.INPUT.ORIGINAL = False
    # (height, width) in pixels for RESIZE_TEST "stretch".
    cfg.INPUT.SIZE_TEST = (0, 0)
    # (least, most): training pictures are made to fit into a square whose side is a random multiple, between these, of the
    # crop's (large-scale jitter), in place of MIN_SIZE_TRAIN and MAX_SIZE_TRAIN. (): not.
    cfg.INPUT.SCALE_JITTER = ()
    # What masks stand for in training: class (one of each class present) | segment (one of each object and stuff class of
    # the panoptic labels, as on COCO panoptic).
    cfg.INPUT.TARGET_MASKS = "class"
    # SSD colour jitter in training.
    cfg.INPUT.COLOR_AUG_SSD = False
    # A crop in which one category covers more than this share of the pixels is drawn again (1.0: any crop).
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Training images are padded right and bottom to this size in pixels (0: not), with this value before normalisation.
    # Larger ones stay as they are.
    cfg.INPUT.PAD_TO = 0
    cfg.INPUT.PAD_VALUE = 128


def _check_size(cfg: CN) -> None:
    size = tuple(cfg.INPUT.SIZE_TEST)
    if cfg.INPUT.RESIZE_TEST != "stretch":
        return
    if len(size) != 2:
        raise UserError(f"INPUT.SIZE_TEST is {size}, and INPUT.RESIZE_TEST 'stretch' needs (height, width) in pixels")
    check_size(*size, f"INPUT.SIZE_TEST is {size}")


def _check_jitter(cfg: CN) -> None:
    scales, crop = tuple(cfg.INPUT.SCALE_JITTER), cfg.INPUT.CROP
    if not scales:
        return
    if len(scales) != 2 or not 0 < scales[0] <= scales[1]:
        raise UserError(f"INPUT.SCALE_JITTER is {scales}; give (least, most), both above 0, or ()")
    sides = tuple(crop.SIZE)
    if not crop.ENABLED or crop.TYPE != "absolute" or len(set(sides)) != 1:
        raise UserError(
            f"INPUT.SCALE_JITTER is {scales}, a share of a square crop's side, but INPUT.CROP is "
            f"{f'{crop.TYPE} {sides}' if crop.ENABLED else 'off'}; set INPUT.CROP.ENABLED True, TYPE absolute, equal sides"
        )
    if scales[1] * sides[0] > LONGEST_SIDE:
        raise UserError(
            f"INPUT.SCALE_JITTER is {scales}: pictures may become {scales[1] * sides[0]:.0f} pixels long, and at most "
            f"{LONGEST_SIDE} are allowed; make it, or INPUT.CROP.SIZE, smaller"
        )


def _check_training_views(cfg: CN) -> None:
    size = tuple(cfg.INPUT.CROP.SIZE)
    if len(size) != 2 or not all(isinstance(side, int | float) and side > 0 for side in size):
        raise UserError(f"INPUT.CROP.SIZE is {shown(size)}; give two numbers above 0, height and width")
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and len(cfg.INPUT.MIN_SIZE_TRAIN) != 2:
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {shown(tuple(cfg.INPUT.MIN_SIZE_TRAIN))}, and INPUT.MIN_SIZE_TRAIN_SAMPLING 'range' "
            "needs two numbers, the least and the greatest"
        )
    if not 0 <= cfg.INPUT.PAD_VALUE <= 255:
        raise UserError(f"INPUT.PAD_VALUE is {cfg.INPUT.PAD_VALUE}; it must lie between 0 and 255")


def _check_padding(cfg: CN) -> None:
    """UserError where padding has nothing to do, since what it gets is larger."""
    crop, wanted = cfg.INPUT.CROP, cfg.INPUT.PAD_TO
    if not wanted:
        return
    if crop.ENABLED and crop.TYPE == "absolute":
        if max(crop.SIZE) > wanted:
            raise UserError(
                f"INPUT.PAD_TO is {wanted} and INPUT.CROP.SIZE {tuple(crop.SIZE)}: crops are larger than what they are padded "
                "to; make PAD_TO the crop's longer side, or 0"
            )
    elif (
        not crop.ENABLED
        and not cfg.INPUT.SCALE_JITTER
        and min(*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) > wanted
    ):
        raise UserError(
            f"INPUT.PAD_TO is {wanted}, and INPUT.MIN_SIZE_TRAIN {tuple(cfg.INPUT.MIN_SIZE_TRAIN)} makes every picture "
            "larger; set a PAD_TO that is not smaller, 0, or crop before (INPUT.CROP.ENABLED True)"
        )


def _check_named_once(cfg: CN) -> None:
    """UserError where a dataset is named twice: it would weigh double, or be evaluated double."""
    for key in ("TRAIN", "TEST"):
        names = tuple(cfg.DATASETS[key])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"DATASETS.{key} names '{twice}' twice; name every dataset once")


def _check_data(cfg: CN) -> None:
    _check_named_once(cfg)
    _check_size(cfg)
    _check_training_views(cfg)
    _check_padding(cfg)
    _check_jitter(cfg)


def _add_captions(cfg: CN) -> None:
    cfg.INPUT.CAPTIONS = CN()
    # Side in pixels of the square that a random part of a picture is resized to, and the share of its area that this
    # part covers (least, most).
    cfg.INPUT.CAPTIONS.SIZE = 224
    cfg.INPUT.CAPTIONS.AREA = (0.5, 1.0)
    # Words drawn from a picture's caption, where masks come with captions (DATASETS.CAPTIONS).
    cfg.INPUT.CAPTIONS.WORDS = 8
    # Superpixels of the whole picture (Felzenszwalb): scale, blur before, and least size in pixels.
    cfg.INPUT.CAPTIONS.SUPERPIXEL_SCALE = 224.0
    cfg.INPUT.CAPTIONS.SUPERPIXEL_SIGMA = 0.9
    cfg.INPUT.CAPTIONS.SUPERPIXEL_MIN_SIZE = 224


def _check_captions(cfg: CN) -> None:
    area = tuple(cfg.INPUT.CAPTIONS.AREA)
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise UserError(f"INPUT.CAPTIONS.AREA is {area}; give (least, most), both above 0 and at most 1")


GROUPS = (
    KeyGroup(
        add=_add_data,
        choices={
            "INPUT.FORMAT": ("RGB",),
            "INPUT.RESIZE_TEST": ("pillow", "opencv", "stretch"),
            "INPUT.TARGET_MASKS": ("class", "segment"),
            "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
            "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
            "INPUT.CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
            # Detectron2's others draw by instances, of which label maps have none.
            "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
        },
        positive=("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST"),
        not_negative=("INPUT.MIN_SIZE_TEST", "INPUT.PAD_TO", "DATALOADER.NUM_WORKERS"),
        fraction=("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",),
        # Not the MAX_SIZEs: they enlarge nothing, and an endless one means no bound.
        sides=("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "INPUT.SIZE_TEST", "INPUT.CROP.SIZE", "INPUT.PAD_TO"),
        paths=("DATASETS.FOLDERS", "DATASETS.DISTRACTORS"),
        check=_check_data,
    ),
    KeyGroup(
        add=_add_captions,
        positive=(
            "INPUT.CAPTIONS.SIZE",
            "INPUT.CAPTIONS.WORDS",
            "INPUT.CAPTIONS.SUPERPIXEL_SCALE",
            "INPUT.CAPTIONS.SUPERPIXEL_MIN_SIZE",
        ),
        sides=("INPUT.CAPTIONS.SIZE",),
        check=_check_captions,
    ),
)

"""Datasets, reading and augmenting images."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from twostage.config.group import KeyGroup


def _add(cfg: CN) -> None:
    # Folders of your own (images/, labels/, classes.txt or classes.json), each "path" or "name=path". They are then
    # datasets to put into TRAIN and TEST; see twostage/data/catalogue/folders.py.
    cfg.DATASETS.FOLDERS = ()
    # Whose class names to ask for on the benchmarks: auto (those that belong to the registered name), or a published
    # system (catseg, san, fcclip, ...). Names move mIoU.
    cfg.DATASETS.CLASS_NAMES = "auto"
    # Further names that compete with the test sets' own classes and that no label holds: a file with one name per line, or
    # "toybox:N" for N names made from toybox's words. A pixel called by one of them is wrong.
    cfg.DATASETS.DISTRACTORS = ""
    # Leave broken training pictures and labels out, count and list them in the log, instead of stopping. (The command
    # option --skip-broken sets this and TEST.SKIP_BROKEN.)
    cfg.DATALOADER.SKIP_BROKEN = False
    cfg.INPUT.FORMAT = "RGB"
    # How test images are resized: pillow (Detectron2: smooths where it shrinks) | opencv (mmsegmentation: plain bilinear).
    cfg.INPUT.RESIZE_TEST = "pillow"
    # SSD colour jitter in training.
    cfg.INPUT.COLOR_AUG_SSD = False
    # A crop in which one category covers more than this share of the pixels is drawn again (1.0: any crop).
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Training images are padded right and bottom to this size in pixels (0: not), with this value before normalisation.
    cfg.INPUT.PAD_TO = 0
    cfg.INPUT.PAD_VALUE = 128


GROUP = KeyGroup(
    add=_add,
    choices={"INPUT.FORMAT": ("RGB",), "INPUT.RESIZE_TEST": ("pillow", "opencv")},
    fraction=("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",),
)

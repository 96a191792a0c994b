"""Datasets, mappers and loaders. Importing it registers the datasets in Detectron2's catalogues."""

from twostage.data import captions as captions
from twostage.data import registration as registration
from twostage.data.coco_stuff import register_coco_stuff

register_coco_stuff()

"""Datasets, mappers and loaders. Importing it registers the datasets in Detectron2's catalogues."""

from twostage.data import captions as captions
from twostage.data import registration as registration

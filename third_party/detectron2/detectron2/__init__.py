"""A subset of Detectron2's API, see the README of the distribution."""

__version__ = "0.6+twostage"

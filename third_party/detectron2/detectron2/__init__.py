"""A subset of Detectron2's API, see the README beside the package."""

__version__ = "0.6+twostage"

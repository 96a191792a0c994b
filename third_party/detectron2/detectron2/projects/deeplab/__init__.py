"""Config keys of the DeepLab project, and its polynomial schedule."""

from detectron2.projects.deeplab.build_solver import build_lr_scheduler
from detectron2.projects.deeplab.config import add_deeplab_config

__all__ = ["add_deeplab_config", "build_lr_scheduler"]

"""Readers of datasets on disk. None is registered here."""

from detectron2.data.datasets.coco import load_sem_seg

__all__ = ["load_sem_seg"]

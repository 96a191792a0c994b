"""Named collections of classes and functions."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]

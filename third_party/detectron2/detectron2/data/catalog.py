"""Datasets by name: functions that give their records, and what is known about them."""

from __future__ import annotations

import copy
import logging
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]

logger = logging.getLogger(__name__)


class _DatasetCatalog(UserDict):
    """Name -> function that gives the dataset's records."""

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Add a dataset. AssertionError where the name is taken or `func` can't be called."""
        assert callable(func), f"dataset '{name}' must be registered with a function, not {func!r}"
        assert name not in self, f"Dataset '{name}' is already registered!"
        self[name] = func

    def get(self, name: str) -> Any:  # type: ignore[override]
        """Call the function and return its records, anew every time. KeyError for an unknown name."""
        if name not in self:
            raise KeyError(f"Dataset '{name}' is not registered! Available datasets are: {', '.join(self.list())}")
        return self[name]()

    def list(self) -> list[str]:
        """All names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a dataset."""
        self.pop(name)

    def __str__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self.list())})"

    __repr__ = __str__


_RENAMED = {
    "class_names": "thing_classes",
    "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    "stuff_class_names": "stuff_classes",
}


class Metadata(SimpleNamespace):
    """What is known about a dataset, as attributes that can be set once (and again to an equal value)."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        if key in _RENAMED:
            logger.warning("Metadata '%s' was renamed to '%s'", key, _RENAMED[key])
            return getattr(self, _RENAMED[key])
        # Copying and unpickling ask for attributes before there are any.
        known = list(self.__dict__)
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}'. Available keys are {known}."
        )

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _RENAMED:
            logger.warning("Metadata '%s' was renamed to '%s'", key, _RENAMED[key])
            key = _RENAMED[key]
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == value, (
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set to a different value! {old} != {value}"
            )
        super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """All attributes; a shallow copy."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        """Set several attributes; returns self."""
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or `default` where it does not exist."""
        return getattr(self, key, default)


class _MetadataCatalog(UserDict):
    """Name -> `Metadata`, made when first asked for."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """The metadata of a dataset: the same object every time. AssertionError for an empty name."""
        assert name, "metadata needs a dataset's name"
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> list[str]:
        """All names."""
        return list(self.keys())

    def remove(self, name: str) -> None:
        """Forget a dataset's metadata."""
        self.pop(name)

    def __str__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self.list())})"

    __repr__ = __str__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()

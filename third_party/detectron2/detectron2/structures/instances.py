"""Per-instance fields of one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch


class Instances:
    """A table: fields (classes, masks, scores, ...) of equal length, one entry per instance.

    Fields are attributes: `instances.gt_classes = ...`; indexing selects instances in all fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """
        Args:
            image_size: (height, width).
            kwargs: fields.
        """
        # Past __setattr__, which would make fields of them.
        self.__dict__.update(_image_size=image_size, _fields={})
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Called for unknown attributes only; copying and unpickling ask for some before there are any fields.
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f"Instances has no field '{name}'")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Add or replace a field. AssertionError where its length differs from that of the others."""
        length = len(value)
        if self._fields:
            assert len(self) == length, f"Adding a field of length {length} to a Instances of length {len(self)}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return name in self._fields

    def get(self, name: str) -> Any:
        """A field. KeyError where it does not exist."""
        return self._fields[name]

    def remove(self, name: str) -> None:
        """Delete a field. KeyError where it does not exist."""
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields; changing this dict changes the instances."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """A copy, with `to` called on all fields that have it."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item: int | slice | torch.Tensor) -> Instances:
        """The chosen instances; a number gives `Instances` of length one."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} in Instances of length {len(self)}")
            item = slice(item, None, len(self))
        return self._map(lambda value: value[item])

    def _map(self, function: Any) -> Instances:
        result = Instances(self._image_size)
        for name, value in self._fields.items():
            result.set(name, function(value))
        return result

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without fields have no length")

    def __iter__(self) -> Any:
        raise NotImplementedError("Instances are not iterable; index them, or iterate over a field")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Concatenate the fields of instances of the same image, which all have the same fields."""
        assert instance_lists, "cat needs at least one Instances"
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        assert all(i.image_size == first.image_size for i in instance_lists), "instances of images of different sizes"
        result = Instances(first.image_size)
        for name in first.get_fields():
            result.set(name, _concatenate([i.get(name) for i in instance_lists]))
        return result

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        height, width = self._image_size
        count = len(self) if self._fields else 0
        return f"Instances(num_instances={count}, image_height={height}, image_width={width}, fields=[{fields}])"


def _concatenate(values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(values)
    if isinstance(first, list):
        return list(itertools.chain(*values))
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise ValueError(f"fields of type {type(first).__name__} can't be concatenated")

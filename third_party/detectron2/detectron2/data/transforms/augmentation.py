"""Augmentations: policies that draw a transform for the data they see."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]


class AugInput:
    """What an augmentation looks at and changes; other attributes may be added for augmentations that ask for them.

    Attributes:
        image: `[H, W]` or `[H, W, C]`.
        boxes: `[N, 4]` XYXY, or None.
        sem_seg: labels `[H, W]`, or None.
    """

    def __init__(
        self, image: np.ndarray, *, boxes: np.ndarray | None = None, sem_seg: np.ndarray | None = None
    ) -> None:
        assert isinstance(image, np.ndarray) and image.ndim in (2, 3), "an image is an array [H, W] or [H, W, C]"
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to everything that is there."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations: Sequence[Augmentation | Transform]) -> TransformList:
        """Apply augmentations in order; returns what they drew."""
        return AugmentationList(augmentations)(self)


class Augmentation:
    """Base class: subclasses write `get_transform`, whose parameters are named after the inputs that it needs.

    For example `get_transform(self, image, sem_seg)`; a single parameter is always the image. Draw from `numpy.random`.
    """

    def _init(self, params: dict[str, Any] | None = None) -> None:
        """Set the local variables of a constructor as attributes: `self._init(locals())`."""
        for name, value in (params or {}).items():
            if name != "self" and not name.startswith("_"):
                setattr(self, name, value)

    def get_transform(self, *args: Any) -> Transform:
        """Draw a transform for the inputs."""
        raise NotImplementedError

    def _input_names(self) -> list[str]:
        """The inputs that `get_transform` needs. TypeError where it has variable parameters."""
        parameters = inspect.signature(self.get_transform).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise TypeError(f"{type(self).__name__}.get_transform must name its inputs")
        names = [p.name for p in parameters if p.default is p.empty]
        return ["image"] if len(names) == 1 else names

    def __call__(self, aug_input: Any) -> Transform:
        """Draw for `aug_input`, apply to it in place, return what was drawn.

        Raises:
            AttributeError: it lacks an input that is needed.
        """
        missing = [name for name in self._input_names() if not hasattr(aug_input, name)]
        if missing:
            raise AttributeError(f"{type(self).__name__} needs '{missing[0]}', which {type(aug_input).__name__} lacks")
        tfm = self.get_transform(*[getattr(aug_input, name) for name in self._input_names()])
        assert isinstance(tfm, Transform), f"{type(self).__name__}.get_transform returned {type(tfm).__name__}"
        aug_input.transform(tfm)
        return tfm

    def __repr__(self) -> str:
        """`Name(argument=value, ...)` with the arguments that are not at their defaults, where they are attributes."""
        parameters = inspect.signature(type(self).__init__).parameters.values()
        shown = []
        for parameter in list(parameters)[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not hasattr(self, parameter.name):
                return super().__repr__()
            value = getattr(self, parameter.name)
            if value is not parameter.default and not np.array_equal(value, parameter.default):
                shown.append(f"{parameter.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _Fixed(Augmentation):
    """A transform in the place of an augmentation."""

    def __init__(self, tfm: Transform) -> None:
        self.tfm = tfm

    def get_transform(self, image: Any) -> Transform:
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)


def _as_augmentation(item: Any) -> Augmentation:
    if isinstance(item, Augmentation):
        return item
    if isinstance(item, Transform):
        return _Fixed(item)
    raise TypeError(f"expected augmentations and transforms, not {type(item).__name__}")


class AugmentationList(Augmentation):
    """Augmentations and transforms, in order."""

    def __init__(self, augs: Sequence[Any]) -> None:
        super().__init__()
        self.augs = [_as_augmentation(item) for item in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        """Apply all, in place; returns what they drew."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


def apply_augmentations(augmentations: Sequence[Augmentation | Transform], inputs: Any) -> tuple[Any, TransformList]:
    """Apply to an image array or an `AugInput`; returns the result, of the same kind, and the transforms."""
    if not isinstance(inputs, np.ndarray):
        return inputs, inputs.apply_augmentations(augmentations)
    aug_input = AugInput(inputs)
    transforms = aug_input.apply_augmentations(augmentations)
    return aug_input.image, transforms


# Older names, which projects still use.
apply_transform_gens = apply_augmentations
StandardAugInput = AugInput
TransformGen = Augmentation

"""Predictions that are masks and what each of them is.

Legend: B images, Q masks, C classes, h x w the masks' grid, H x W an image, height x width the wanted output size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.best_class import best_of_masks
from twostage.inference.resampling import Resampler, RowwiseResize, Size
from twostage.predictions.geometry import Geometry
from twostage.predictions.prediction import UNLABELLED, TopScores

# A pixel on the border of the masks lies in them by a half, up to rounding.
_HALF = 0.5 - 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskPrediction:
    """Masks and what each of them is (mask classification, MaskFormer, section 3.3).

    A pixel's score for a class is sum over masks of p(class | mask) * sigmoid(mask logit at the pixel). Systems differ in
    where the sigmoid is taken, which changes the numbers: after all resizes, or at the image's own size, after which the
    scores are resized to the output.

    Attributes:
        mask_logits: `[B, Q, h, w]`.
        class_logits: `[B, Q, C + 1]`, void last; softmax over all of them, then void is dropped.
        geometry: where the grid lies.
        class_weights: `[B, Q, C]` in place of these probabilities, where a system joins several classifiers; not negative,
            need not add up to one. A mask whose row is zero takes no part.
        resize_scores: whether the sum is taken at the image's own size and its scores are resized to the output.
        mask_threshold: pixels above this probability (at the image's size) count as 1 and the others as 0; None leaves
            them soft.
        num_named: where given, the label maps say `UNLABELLED` for classes from this one on (rivals of the words asked
            for) and for pixels that no mask with a class weight covers.
        only_covered: the label maps say `UNLABELLED` for pixels that lie in masks with a class weight by less than half.
    """

    mask_logits: Tensor
    class_logits: Tensor
    geometry: Geometry
    class_weights: Tensor | None = None
    resize_scores: bool = False
    mask_threshold: float | None = None
    num_named: int | None = None
    only_covered: bool = False

    @property
    def num_classes(self) -> int:
        return self.class_logits.shape[-1] - 1

    @property
    def class_probabilities(self) -> Tensor:
        """What each mask adds to the classes, `[B, Q, C]`."""
        if self.class_weights is not None:
            return self.class_weights
        return self.class_logits.softmax(dim=-1)[..., :-1]

    @property
    def label_probabilities(self) -> Tensor:
        """Probabilities `[B, Q, C + 1]` of what each mask is, void last.

        Joined class scores share what the generator's void leaves (FC-CLIP, section 3.2).
        """
        probabilities = self.class_logits.softmax(dim=-1)
        if self.class_weights is None:
            return probabilities
        void = probabilities[..., -1:]
        shares = self.class_weights / self.class_weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)
        return torch.cat([(1 - void) * shares, void], dim=-1)

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Semantic scores `[C, height, width]` of each image; for parity checks and export, since it holds C maps."""
        result = []
        probabilities = self.class_probabilities
        for index, size in enumerate(sizes):
            weights = probabilities[index].T
            out = weights.new_empty((self.num_classes, *size))
            if self._sums_first(index, size, maps=self.num_classes):
                for rows, scores in self._mask_strips(index, size, floats_per_pixel=len(weights.T), weights=weights):
                    out[:, rows] = scores
            else:
                for rows, masks in self._mask_strips(index, size, floats_per_pixel=len(weights.T)):
                    out[:, rows] = _weighted(weights, masks)
            result.append(out)
        return result

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image."""
        result = []
        probabilities = self.class_probabilities
        for index, size in enumerate(sizes):
            weights = probabilities[index].T.contiguous()
            labels = torch.empty(size, dtype=torch.int64, device=weights.device)
            named = weights.any(dim=0)
            per_pixel = self.mask_logits.shape[1] + min(blocks.CLASS_BLOCK, self.num_classes)
            if self.num_named is None and self._sums_first(index, size, maps=self.num_classes + 1):
                # The last sum is how much of a pixel lies in masks that are named.
                summed = torch.cat([weights, named.to(weights.dtype)[None]])
                for rows, maps in self._mask_strips(index, size, floats_per_pixel=per_pixel, weights=summed):
                    best = blocks.running_argmax((c.start, maps[c]) for c in blocks.class_blocks(self.num_classes))
                    labels[rows] = self._unless_uncovered(best, maps[-1])
            else:
                for rows, masks in self._mask_strips(index, size, floats_per_pixel=per_pixel):
                    best = best_of_masks(weights, masks)
                    if self.num_named is not None:
                        covered = masks[named].any(dim=0)
                        best = torch.where(covered & (best < self.num_named), best, UNLABELLED)
                    labels[rows] = self._unless_uncovered(best, masks[named].sum(dim=0)) if self.only_covered else best
            result.append(labels)
        return result

    def _unless_uncovered(self, best: Tensor, coverage: Tensor) -> Tensor:
        return torch.where(coverage >= _HALF, best, UNLABELLED) if self.only_covered else best

    def top(self, sizes: Sequence[Size], count: int) -> list[TopScores]:
        """The `count` best classes of each pixel, per image."""
        result = []
        probabilities = self.class_probabilities
        for index, size in enumerate(sizes):
            weights = probabilities[index].T.contiguous()
            room = TopScores.room(count, size, weights.device)
            per_pixel = self.mask_logits.shape[1] + 2 * (count + min(blocks.CLASS_BLOCK, self.num_classes))
            for rows, masks in self._mask_strips(index, size, floats_per_pixel=per_pixel):
                parts = (
                    (c.start, (weights[c] @ masks.flatten(1)).unflatten(1, masks.shape[1:]))
                    for c in blocks.class_blocks(len(weights))
                )
                room.put(rows, blocks.running_top(parts, count))
            result.append(room)
        return result

    def resampler(self, index: int, size: Size) -> Resampler:
        """The way from image `index`'s masks to `size`."""
        grid = (self.mask_logits.shape[-2], self.mask_logits.shape[-1])
        return self.geometry.resampler(index, grid, size, self.mask_logits.device)

    def _sums_first(self, index: int, size: Size, *, maps: int) -> bool:
        """Whether so many sums over masks are made at the image's size and resized: as published, and less work with few.

        On a processor. With more sums than masks the masks are resized, which gives the same, since both are linear.
        """
        height, width = self.geometry.images[index]
        enlarged = self.resize_scores and height * width < size[0] * size[1]
        return enlarged and maps <= self.mask_logits.shape[1] and self.mask_logits.device.type == "cpu"

    def _mask_strips(
        self, index: int, size: Size, *, floats_per_pixel: int, weights: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Mask probabilities `[Q, rows, width]` of one image, strip by strip; with `weights` `[K, Q]` their K sums.

        Sums are made before what is made at the image's size is resized.
        """
        logits, device = self.mask_logits[index], self.mask_logits.device
        image = (self.geometry.images[index][0], self.geometry.images[index][1])
        at_image_size = self.resize_scores and image != tuple(size)
        resample = self.resampler(index, image if at_image_size else size)
        resize = RowwiseResize(image, size, device=device) if at_image_size else None
        for strip in blocks.strips(size, floats_per_pixel):
            height = blocks.cached_rows(len(logits) * size[1], device) or strip.stop - strip.start
            if resize is None:
                for rows, mask_logits in resample.strips(logits, strip, height):
                    yield rows, self._probabilities(mask_logits)
                continue
            for start in range(strip.start, strip.stop, height):
                rows = slice(start, min(start + height, strip.stop))
                source = resize.source_rows(rows)
                maps = self._probabilities(resample(logits, source.start, source.stop))
                yield rows, resize(maps if weights is None else _weighted(weights, maps), rows)

    def _probabilities(self, mask_logits: Tensor) -> Tensor:
        """In place of the logits."""
        masks = mask_logits.sigmoid_()
        return masks if self.mask_threshold is None else (masks > self.mask_threshold).to(masks.dtype)


def _weighted(weights: Tensor, masks: Tensor) -> Tensor:
    """Sums `[K, r, W]` of masks `[Q, r, W]` by weights `[K, Q]`."""
    return (weights @ masks.flatten(1)).unflatten(1, masks.shape[1:])

"""What a system predicts, and how that becomes scores, a label map or panoptic segments.

Legend: B images, Q masks, C classes, h x w the prediction's grid, height x width the wanted output size.
Label maps are made in strips of rows and blocks of classes with a running maximum, so that memory depends neither on the
number of classes times pixels nor on the output size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from twostage.inference import blocks
from twostage.inference.resampling import Resampler, RowwiseResize

Size = tuple[int, int]

# Label of pixels that are none of the words asked for, from systems that can say so.
UNLABELLED = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """Where a batch's predictions lie: sizes in pixels that lead from the grid to each image.

    Attributes:
        padded: size of the batch tensor `(H, W)` that the grid covers.
        images: size of each image inside it, before padding.
    """

    padded: Size
    images: Sequence[Size]

    @classmethod
    def on_grid(cls, grid: Size, images: Sequence[Size]) -> Frames:
        """Frames of a system that hands its grid to Detectron2's `sem_seg_postprocess` without resizing it first.

        The crop to the image's size then acts on the grid: it does nothing unless the image is smaller than the grid.
        """
        return cls(padded=grid, images=[(min(grid[0], height), min(grid[1], width)) for height, width in images])

    def resampler(self, index: int, grid: Size, output: Size, device: torch.device) -> Resampler:
        """The way from the grid to `output` for image `index`: resize to the padded size, crop, resize."""
        return Resampler(grid=grid, padded=self.padded, image=self.images[index], output=output, device=device)

    def at_image_size(self, index: int, maps: Tensor) -> Tensor:
        """Maps `[Q, h, w]` of image `index` at its own size, `[Q, H, W]`, for masks that are to be thresholded there.

        Rounds as the published code does (`Resampler`'s matrices round otherwise), so that pixels on the threshold fall on
        the same side.
        """
        resized = F.interpolate(maps[None], size=self.padded, mode="bilinear", align_corners=False)[0]
        height, width = self.images[index]
        # Elementwise kernels round their last few numbers differently, so that it matters where a row ends in memory.
        return resized[:, :height, :width].contiguous()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskPrediction:
    """Masks and what each of them is (mask classification, MaskFormer, section 3.3).

    A pixel's score for a class is sum over masks of p(class | mask) * sigmoid(mask logit at the pixel). Systems differ in
    where the sigmoid is taken, which changes the numbers: after all resizes, or at the image's own size, after which the
    scores are resized to the output.

    Attributes:
        mask_logits: `[B, Q, h, w]`.
        class_logits: `[B, Q, C + 1]`, void last; softmax over all of them, then void is dropped.
        frames: where the grid lies.
        class_weights: `[B, Q, C]` in place of these probabilities, where a system joins several classifiers; not negative,
            need not add up to one. A mask whose row is zero takes no part.
        resize_scores: whether the sum is taken at the image's own size and its scores are resized to the output.
        mask_threshold: pixels above this probability (at the image's size) count as 1 and the others as 0; None leaves
            them soft.
        num_named: where given, the label maps say `UNLABELLED` for classes from this one on (rivals of the words asked
            for) and for pixels that no mask with a class weight covers.
    """

    mask_logits: Tensor
    class_logits: Tensor
    frames: Frames
    class_weights: Tensor | None = None
    resize_scores: bool = False
    mask_threshold: float | None = None
    num_named: int | None = None

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
            for rows, masks in self._mask_strips(index, size, floats_per_pixel=len(weights.T)):
                out[:, rows] = (weights @ masks.flatten(1)).unflatten(1, masks.shape[1:])
            result.append(out)
        return result

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image."""
        result = []
        probabilities = self.class_probabilities
        for index, size in enumerate(sizes):
            weights = probabilities[index].T.contiguous()
            labels = torch.empty(size, dtype=torch.int64, device=weights.device)
            per_pixel = self.mask_logits.shape[1] + min(blocks.CLASS_BLOCK, self.num_classes)
            for rows, masks in self._mask_strips(index, size, floats_per_pixel=per_pixel):
                flat = masks.flatten(1)
                best = blocks.running_argmax((c.start, weights[c] @ flat) for c in blocks.class_blocks(len(weights)))
                if self.num_named is not None:
                    covered = masks[weights.any(dim=0)].flatten(1).any(dim=0)
                    best = torch.where(covered & (best < self.num_named), best, UNLABELLED)
                labels[rows] = best.view(masks.shape[1:])
            result.append(labels)
        return result

    def panoptic(
        self,
        sizes: Sequence[Size],
        things: Sequence[int],
        *,
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.8,
    ) -> list[tuple[Tensor, list[dict]]]:
        """Non-overlapping segments: (ids int32 `[height, width]`, 0 = none; list of `id`, `category_id`, `isthing`).

        Mask2Former's rule: masks whose best class is not void and scores above `score_threshold` compete for pixels by
        score * mask probability; a mask that wins less than `overlap_threshold` of its own area (probability 0.5 on) is
        dropped; what is left of it is where it wins and has that probability; segments of one stuff class become one.
        """
        return [
            self._panoptic_one(i, size, set(things), score_threshold, overlap_threshold) for i, size in enumerate(sizes)
        ]

    def _panoptic_one(
        self, index: int, size: Size, things: set[int], score_threshold: float, overlap_threshold: float
    ) -> tuple[Tensor, list[dict]]:
        scores, classes = self.label_probabilities[index].max(dim=-1)
        kept = ((classes != self.num_classes) & (scores > score_threshold)).nonzero().flatten()
        if len(kept) == 0:
            return torch.zeros(size, dtype=torch.int32, device=scores.device), []
        owner, inside, valid = self._compete(index, size, kept, scores[kept], overlap_threshold)
        # Id of each mask, 0 where it is dropped.
        ids_of = torch.zeros(len(kept), dtype=torch.int32, device=scores.device)
        segments: list[dict] = []
        stuff_ids: dict[int, int] = {}
        for position in valid.nonzero().flatten().tolist():
            category = int(classes[kept[position]])
            if category in stuff_ids:
                ids_of[position] = stuff_ids[category]
                continue
            segments.append({"id": len(segments) + 1, "category_id": category, "isthing": category in things})
            ids_of[position] = segments[-1]["id"]
            if category not in things:
                stuff_ids[category] = segments[-1]["id"]
        return torch.where(inside, ids_of[owner], 0), segments

    def _compete(
        self, index: int, size: Size, kept: Tensor, scores: Tensor, overlap_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mask that wins each pixel and whether it covers it, int64 and bool `[height, width]`; which of the `kept`
        masks `[n]` with `scores` `[n]` keep enough of their area, bool `[n]`."""
        resample = self.frames.resampler(index, self._grid, size, scores.device)
        logits = self.mask_logits[index, kept]
        owner = torch.empty(size, dtype=torch.int64, device=scores.device)
        inside = torch.empty(size, dtype=torch.bool, device=scores.device)
        own_area = torch.zeros(len(kept), dtype=torch.int64, device=scores.device)
        for rows in blocks.strips(size, 3 * len(kept)):
            probabilities = resample(logits, rows.start, rows.stop).sigmoid()
            owner[rows] = (scores[:, None, None] * probabilities).argmax(dim=0)
            inside[rows] = probabilities.gather(0, owner[rows][None])[0] >= 0.5
            own_area += (probabilities >= 0.5).flatten(1).sum(1)
        won_area = torch.bincount(owner.flatten(), minlength=len(kept))
        kept_area = torch.bincount(owner[inside], minlength=len(kept))
        valid = (kept_area > 0) & (won_area / own_area.clamp(min=1) >= overlap_threshold)
        return owner, inside, valid

    def instances(
        self, sizes: Sequence[Size], things: Sequence[int] | None = None, *, top_k: int = 100
    ) -> list[Instances]:
        """The best pairs of mask and class as Detectron2's `Instances`, best first.

        Mask2Former's rule: the `top_k` most probable (mask, class) pairs, of which those stay whose class is in `things`
        (None: all); the score is the probability times the mean mask probability inside the mask.

        Returns:
            `scores` `[n]`, `pred_classes` int64 `[n]`, `pred_masks` bool `[n, height, width]` per image, n <= top_k.
        """
        return [self._instances_one(i, size, things, top_k) for i, size in enumerate(sizes)]

    def _instances_one(self, index: int, size: Size, things: Sequence[int] | None, top_k: int) -> Instances:
        probabilities = self.label_probabilities[index, :, :-1]
        scores, pairs = probabilities.flatten().topk(min(top_k, probabilities.numel()))
        queries, classes = pairs // self.num_classes, pairs % self.num_classes
        if things is not None:
            kept = torch.isin(classes, torch.as_tensor(list(things), dtype=classes.dtype, device=classes.device))
            scores, queries, classes = scores[kept], queries[kept], classes[kept]
        used, place = queries.unique(return_inverse=True)
        masks, certainty = self._certain_masks(index, size, used)
        scores, order = (scores * certainty[place]).sort(descending=True)
        found = Instances(size)
        found.scores, found.pred_classes, found.pred_masks = scores, classes[order], masks[place[order]]
        return found

    def _certain_masks(self, index: int, size: Size, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Masks bool `[n, height, width]` of `queries` and their mean probability inside `[n]`."""
        logits = self.mask_logits[index, queries]
        resample = self.frames.resampler(index, self._grid, size, logits.device)
        masks = torch.empty((len(queries), *size), dtype=torch.bool, device=logits.device)
        total = logits.new_zeros(len(queries))
        for rows in blocks.strips(size, 2 * max(1, len(queries))):
            strip = resample(logits, rows.start, rows.stop)
            masks[:, rows] = strip > 0
            total += (strip.sigmoid() * masks[:, rows]).flatten(1).sum(dim=1)
        return masks, total / (masks.flatten(1).sum(dim=1) + 1e-6)

    @property
    def _grid(self) -> Size:
        return self.mask_logits.shape[-2], self.mask_logits.shape[-1]

    def _mask_strips(self, index: int, size: Size, *, floats_per_pixel: int) -> Iterator[tuple[slice, Tensor]]:
        """Mask probabilities `[Q, rows, width]` of one image, strip by strip.

        Resizing scores and resizing the masks that they are sums of is the same, since both are linear.
        """
        logits, device = self.mask_logits[index], self.mask_logits.device
        image = (self.frames.images[index][0], self.frames.images[index][1])
        at_image_size = self.resize_scores and image != tuple(size)
        resample = self.frames.resampler(index, self._grid, image if at_image_size else size, device)
        resize = RowwiseResize(image, size, device=device) if at_image_size else None
        for rows in blocks.strips(size, floats_per_pixel):
            source = rows if resize is None else resize.source_rows(rows)
            masks = resample(logits, source.start, source.stop).sigmoid_()
            if self.mask_threshold is not None:
                masks = (masks > self.mask_threshold).to(masks.dtype)
            yield rows, masks if resize is None else resize(masks, rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensePrediction:
    """Class logits on a grid.

    Attributes:
        logits: `[B, K, h, w]`, over the kept classes; probabilities where a system's rule is to resize these.
        frames: where the grid lies.
        num_classes: C; K where nothing was rejected.
        kept: class indices `[B, K]` of the logits' channels in ascending order where classes were rejected early (K < C),
            None where all are there.
        fill: score of a rejected class.
    """

    logits: Tensor
    frames: Frames
    num_classes: int
    kept: Tensor | None = None
    fill: float = float("-inf")

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Logits `[C, height, width]` of each image, resized bilinearly; for parity checks and export."""
        result = []
        for index, size in enumerate(sizes):
            full = self._resampler(index, size)(self.logits[index])
            if self.kept is not None:
                out = full.new_full((self.num_classes, *size), self.fill)
                out[self.kept[index]] = full
                full = out
            result.append(full)
        return result

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """Best class of each pixel, int64 `[height, width]` per image."""
        result = []
        for index, size in enumerate(sizes):
            labels = torch.empty(size, dtype=torch.int64, device=self.logits.device)
            resample = self._resampler(index, size)
            logits = self.logits[index]
            for rows in blocks.strips(size, min(blocks.CLASS_BLOCK, len(logits))):
                labels[rows] = blocks.running_argmax(
                    (c.start, resample(logits[c], rows.start, rows.stop)) for c in blocks.class_blocks(len(logits))
                )
            result.append(labels if self.kept is None else self.kept[index][labels])
        return result

    def _resampler(self, index: int, size: Size) -> Resampler:
        return self.frames.resampler(index, (self.logits.shape[-2], self.logits.shape[-1]), size, self.logits.device)


class Prediction(Protocol):
    """What every prediction offers: those above, `TiledPrediction`, and those of systems with a rule of their own."""

    def scores(self, sizes: Sequence[Size]) -> list[Tensor]:
        """`[C, height, width]` of each image."""

    def label_maps(self, sizes: Sequence[Size]) -> list[Tensor]:
        """int64 `[height, width]` of each image."""

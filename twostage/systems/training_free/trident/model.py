"""Trident: windows of CLIP, mixed by DINO, spliced, and mixed again by SAM over the whole picture.

Legend: W CLIP's width, D embedding size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.dense.proxy import resize_map
from twostage.clip.statistics import Pictures
from twostage.clip.towers.vit import Tokens
from twostage.foundation.loading import sam_from_config
from twostage.foundation.sam import PATCH, Sam
from twostage.foundation.sam_pictures import fitted, rounded_up, sam_input
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.training_free.borrowed import BorrowedAffinities
from twostage.systems.training_free.dense_clip.model import NameEmbeddings, PatchEmbeddings
from twostage.systems.training_free.trident.aggregation import aggregate
from twostage.systems.training_free.trident.prediction import RefinedPrediction
from twostage.systems.training_free.trident.prompts import PromptRule
from twostage.systems.training_free.trident.refinement import Refiner, SamView
from twostage.systems.training_free.trident.splicing import aligned_size, corners, splice
from twostage.systems.training_free.trident.weights import frozen_reader_from_config, trident_table


class Originals(Pictures):
    """A batch as a network takes it, and the pictures before they were resized, uint8 `[H, W, 3]` each."""

    originals: list[np.ndarray]


@META_ARCH_REGISTRY.register()
class Trident(BorrowedAffinities):
    """Frozen CLIP, frozen DINO and frozen SAM."""

    system = "Trident"

    @configurable
    def __init__(
        self,
        *,
        sam: Sam | None,
        beta: float,
        gamma: float,
        cosine_factor: float,
        keeps_negative: bool,
        in_halves: bool,
        rule: Any,
        refinement: PromptRule | None,
        least_iou: float,
        **borrowed: Any,
    ) -> None:
        """See `keys.py`; without `sam` spliced features are named as they are; `borrowed` is `BorrowedAffinities`'."""
        super().__init__(rule=rule, **borrowed)
        self.sam = sam
        self.cosine_factor, self.keeps_negative = cosine_factor, keeps_negative
        self.in_halves = in_halves
        self.refiner = None
        if refinement is not None:
            assert sam is not None, "refused by the keys' check"
            self.refiner = Refiner(sam=sam, rule=refinement, least_iou=least_iou)
        patch = self.tower.patch_size[0]
        self.tower = self.proxy_tower = self.borrowing_tower(beta=beta, gamma=gamma, multiple=patch)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRIDENT`, `MODEL.SAM` and what `BorrowedAffinities` reads."""
        keys = cfg.MODEL.TRIDENT
        refinement = PromptRule(
            least_probability=keys.LEAST_PROBABILITY, least_area=keys.LEAST_AREA, mask_factor=keys.MASK_FACTOR
        )
        return {
            **super().from_config(cfg),
            "sam": sam_from_config(cfg) if keys.AGGREGATE else None,
            "beta": keys.BETA,
            "gamma": keys.GAMMA,
            "cosine_factor": keys.COSINE_FACTOR,
            "keeps_negative": keys.NEGATIVE_THRESHOLDS,
            "in_halves": keys.IN_HALVES,
            "refinement": refinement if keys.REFINE else None,
            "least_iou": keys.LEAST_IOU,
            "read_clip": frozen_reader_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` may be SAM's official checkpoint; CLIP's and DINO's weights are then read from their own."""
        return trident_table(self.read_clip)

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """None where there is no SAM."""
        return () if self.sam is None else (self.checkpoint_table(),)

    def preprocess(self, batch: list[dict[str, Any]]) -> Pictures:
        """As every system's, with the pictures before they were resized (`original`, or `image` where there is none)."""
        device = self.units.mean.device
        made = Originals([entry["image"].to(device) for entry in batch], self.units, self.size_divisibility)
        made.originals = [
            np.ascontiguousarray(entry.get("original", entry["image"]).permute(1, 2, 0).byte().cpu().numpy())
            for entry in batch
        ]
        return made

    def encode(self, images: Pictures) -> list[PatchEmbeddings]:
        """Features of each whole image; `beside` is its `SamView`, None where labels are not refined."""
        if self.sam is None:
            return [self._encode_spliced(self.units(pixels), None) for pixels in images.pixels]
        assert isinstance(images, Originals), "what `preprocess` makes"
        return [
            self._encode_spliced(self.units(pixels), original)
            for pixels, original in zip(images.pixels, images.originals, strict=True)
        ]

    def _encode_spliced(self, image: Tensor, original: np.ndarray | None) -> PatchEmbeddings:
        spliced = self.spliced(self.network_input(image))
        view = None
        if self.sam is not None and original is not None:
            pixels = rounded_up(original, self.tower.patch_size[0])
            spliced = self.aggregated(spliced, pixels)
            if self.refiner is not None:
                view = SamView(self.sam(self.sam_picture(pixels)), (pixels.shape[0], pixels.shape[1]))
        grid = (spliced.shape[1], spliced.shape[2])
        embeddings = self.tower.project(Tokens(spliced.flatten(1).T[None], grid, class_tokens=0)).patch_map
        return PatchEmbeddings(
            features=F.normalize(embeddings, dim=1)[0],
            mosaic=Mosaic(tiles=TileGrid.whole((image.shape[1], image.shape[2])), through_canvas=False),
            class_embeddings=None,
            keys=None,
            guide=image if self.pamr_steps else None,
            beside=view,
        )

    def network_input(self, image: Tensor) -> Tensor:
        """A normalised image `[3, H, W]` stretched so that its windows lie on whole patches."""
        size = aligned_size((image.shape[1], image.shape[2]), self.tower.patch_size[0], self.tile)
        return resize_map(image[None], size)[0]

    def windows_of(self, image: Tensor) -> TileGrid:
        """Where the windows of `network_input` lie."""
        size = (image.shape[1], image.shape[2])
        if not self.tile:
            return TileGrid.whole(size)
        return TileGrid.covering(size, tile=(self.tile, self.tile), stride=(self.stride, self.stride))

    def spliced(self, image: Tensor) -> Tensor:
        """Output `[W, h, w]` of CLIP's last block on the whole of a `network_input`'s grid."""
        tiles, patch = self.windows_of(image), self.tower.patch_size[0]
        grid = (tiles.tile[0] // patch, tiles.tile[1] // patch)
        before, features = [], []
        for some in tiles.cut(image[None]).split(self.windows_per_batch):
            tokens = self.tower.before_last(some)
            before.append(tokens.x)
            features.append(resize_map(self.proxy_tower.features(some, tokens), grid))
        tokens = tokens._replace(x=torch.cat(before))
        x = self.proxy_tower.attend(tokens, torch.cat(features), together=True)
        windows = x.transpose(1, 2).unflatten(2, grid)
        return splice(windows, corners(tiles, patch), (image.shape[1] // patch, image.shape[2] // patch), grid=grid)

    def sam_picture(self, pixels: np.ndarray) -> Tensor:
        """A picture `[H, W, 3]` uint8 as SAM takes it."""
        assert self.sam is not None, "asked only where there is SAM"
        return sam_input(pixels, self.sam.side).to(self.units.mean.device)

    def aggregated(self, spliced: Tensor, pixels: np.ndarray) -> Tensor:
        """The spliced map on the grid of SAM, mixed by it: `[W, h, w]`; in halves where pictures are twice as wide."""
        if not self.in_halves:
            return self._aggregated(spliced, pixels)
        at, middle = spliced.shape[2] // 2, pixels.shape[1] // 2
        left = self._aggregated(spliced[..., :at], pixels[:, :middle])
        right = self._aggregated(spliced[..., at:], pixels[:, middle:])
        return torch.cat([left, resize_map(right[None], (left.shape[1], right.shape[2]))[0]], dim=2)

    def _aggregated(self, spliced: Tensor, pixels: np.ndarray) -> Tensor:
        assert self.sam is not None, "asked only where there is SAM"
        sam, pixels = self.sam, np.ascontiguousarray(pixels)
        part = sam.last_attention(sam.last_input(self.sam_picture(pixels)))
        inside = fitted((pixels.shape[0], pixels.shape[1]), sam.side)
        height, width = inside[0] // PATCH, inside[1] // PATCH

        def attention(head: int, rows: slice) -> Tensor:
            whole = sam.attention_rows(part, head, rows).unflatten(1, part.keys.shape[1:3])
            shown = whole.unflatten(0, (rows.stop - rows.start, -1))[:, :width, :height, :width]
            return shown.flatten(2).flatten(0, 1)

        return aggregate(
            spliced,
            part.values[:, :height, :width],
            attention,
            factor=self.cosine_factor,
            keeps_negative=self.keeps_negative,
        )

    def decode(self, encoded: list[PatchEmbeddings], text: NameEmbeddings) -> RefinedPrediction:
        plain = super().decode(encoded, text)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        views = [image.beside for image in encoded if image.beside is not None]
        return RefinedPrediction(**fields, refiner=self.refiner, views=views)

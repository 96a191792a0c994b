"""CLIP-DINOiser: MaskCLIP's features, averaged over the patches that a small learnt head says belong together.

Legend: D embedding size, h x w the mosaic of all windows' grids of an image, C classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.dense.tower import DenseTower
from twostage.clip.loading import clip_reader_from_config, load_clip_from_config
from twostage.clip.statistics import Pictures
from twostage.clip.towers.vit import Tokens, require_vit, run_blocks
from twostage.inference.mosaic import Mosaic
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.training_free.clip_dinoiser.guide import TAPPED_BLOCK, GuideHead, pool, run_tapped_block
from twostage.systems.training_free.clip_dinoiser.weights import dinoiser_table
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction


class GuidedEmbeddings(NamedTuple):
    """Unit pooled embeddings `[D, h, w]` of one image, where they lie, and which patches are background `[h, w]`."""

    features: Tensor
    mosaic: Mosaic
    background: Tensor


class WindowMaps(NamedTuple):
    """What CLIP gives of windows: tokens in front of its last block, the tapped tokens, MaskCLIP's features `[B, D, h, w]`."""

    before_last: Tokens
    tapped: Tokens
    features: Tensor


@META_ARCH_REGISTRY.register()
class ClipDinoiser(OpenVocabularySegmenter[list[GuidedEmbeddings], Tensor]):
    """Frozen CLIP and a head of two convolutions."""

    @configurable
    def __init__(
        self,
        *,
        head: GuideHead,
        tower: DenseTower,
        tile: int,
        stride: int,
        gamma: float,
        logit_scale: float,
        delta: float | None,
        windows_per_batch: int,
        read_clip: Supply,
        **shared: Any,
    ) -> None:
        """See `keys.py`; `tile` 0 means the whole image, `delta` None no rule for the background, `read_clip` reads CLIP's
        own weights, `shared` is `OpenVocabularySegmenter`'s."""
        super().__init__(**shared)
        self.head = head
        self.requires_grad_(False)
        self.tower = tower
        self.tile, self.stride = tile, stride
        self.gamma = gamma
        self.logit_scale = logit_scale
        self.delta = delta
        self.windows_per_batch = windows_per_batch
        self.read_clip = read_clip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.CLIP_DINOISER`, `MODEL.CLIP` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        require_vit(clip.visual, "CLIP-DINOiser")
        keys, sliding = cfg.MODEL.CLIP_DINOISER, cfg.TEST.SLIDING
        return {
            **shared_arguments(cfg, clip, tokenizer),
            "head": GuideHead(clip_width=clip.visual.conv1.out_channels, width=keys.WIDTH),
            "tower": DenseTower(visual=clip.visual, method="maskclip"),
            "tile": sliding.TILE if sliding.ENABLED else 0,
            "stride": sliding.STRIDE,
            "gamma": keys.GAMMA,
            "logit_scale": keys.LOGIT_SCALE,
            "delta": keys.DELTA if keys.BACKGROUND else None,
            "windows_per_batch": keys.WINDOWS_PER_BATCH,
            "read_clip": clip_reader_from_config(cfg, lacks="towers"),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` is the published head; CLIP's weights are read from its own."""
        return dinoiser_table(self.read_clip)

    def encode(self, images: Pictures) -> list[GuidedEmbeddings]:
        """Pooled features of each image, its windows in batches; windows are padded in black, before normalisation."""
        return [self._encode_one(picture) for picture in images.pixels]

    def _encode_one(self, picture: Tensor) -> GuidedEmbeddings:
        size: Size = (picture.shape[-2], picture.shape[-1])
        tiles = TileGrid.whole(size)
        if self.tile:
            tiles = TileGrid.covering(size, tile=(self.tile, self.tile), stride=(self.stride, self.stride))
        mosaic = Mosaic(tiles=tiles, padding="stretch", patch=self.tower.patch_size)
        pooled, background = [], []
        for windows in mosaic.cut(picture.float()).split(self.windows_per_batch):
            maps = self.read_windows(self.units(windows))
            tapped = maps.tapped.patch_map
            pooled.append(pool(maps.features, self.head.correlations(tapped), self.gamma))
            background.append(self.head.background_logits(tapped))
        return GuidedEmbeddings(
            features=mosaic.assemble(F.normalize(torch.cat(pooled), dim=1)),
            mosaic=mosaic,
            background=mosaic.assemble(torch.cat(background))[0] <= 0,
        )

    def read_windows(self, windows: Tensor) -> WindowMaps:
        """CLIP on normalised windows `[B, 3, H, W]`."""
        blocks = self.tower.blocks
        tokens, _ = run_blocks(blocks[:TAPPED_BLOCK], self.tower.embed(windows))
        x, tapped = run_tapped_block(blocks[TAPPED_BLOCK], tokens.x)
        before, _ = run_blocks(blocks[TAPPED_BLOCK + 1 : -1], tokens._replace(x=x))
        features = self.tower.project(self.tower.run_last(before)).patch_map
        return WindowMaps(before, tokens._replace(x=tapped), features)

    def probabilities(self, encoded: GuidedEmbeddings, text: Tensor) -> Tensor:
        """`[C, h, w]` over the classes of unit text embeddings `[C, D]`, before the background's rule."""
        return (self.logit_scale * torch.einsum("cd,dhw->chw", text, encoded.features)).softmax(dim=0)

    def decode(self, encoded: list[GuidedEmbeddings], text: Tensor) -> NamePrediction:
        maps = [self.maps(image, text) for image in encoded]
        return NamePrediction(
            images=[ImageMaps(m, image.mosaic) for m, image in zip(maps, encoded, strict=True)],
            classes=torch.arange(len(text), device=text.device),
            num_classes=len(text),
            # Probabilities are resized and averaged; the released harness puts another softmax behind, which changes no label.
            rule=LabelRule(logit_scale=1.0),
        )

    def maps(self, encoded: GuidedEmbeddings, text: Tensor) -> Tensor:
        """`[C, h, w]` after the background's rule: class 0 has the value 1 where it takes over; the others keep theirs."""
        probabilities = self.probabilities(encoded, text)
        if self.delta is None:
            return probabilities
        taken = encoded.background & (probabilities.amax(dim=0) < self.delta)
        first = probabilities[:1].masked_fill(taken, 1.0)
        return torch.cat([first, probabilities[1:]])

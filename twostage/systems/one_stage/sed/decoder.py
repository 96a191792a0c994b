"""SED's gradual fusion decoder: cost map -> class logits, with category early rejection (SED, sections 3.2 and 3.3).

Legend: B images, T classes (t of a block), P templates, D embedding size, C channels, h x w grid of the cost map; stage i
(0, 1, 2) works on a grid 2^i times as fine and doubles it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.inference.early_rejection import EarlyRejection
from twostage.inference.fourier import wide_convolution
from twostage.inference.resampling import Size
from twostage.systems.one_stage.cost_aggregation.blocks import (
    ChosenBlocks,
    ClassBlocks,
    HeldBlocks,
    MadeBlocks,
    fits,
    held,
)
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.fusion import channels_last
from twostage.systems.one_stage.cost_aggregation.head import LogitHead, add_shifted
from twostage.systems.one_stage.cost_aggregation.parts import Neighbours
from twostage.systems.one_stage.sed.stage import DecoderStage


class ImageFeatures(NamedTuple):
    """What the decoder needs of images.

    Attributes:
        embeddings: CLIP's dense embeddings `[B, D, h, w]`.
        guidance: projected backbone features, one `[B, V_i, 2^(i+1) h, 2^(i+1) w]` per stage.
        correlated: embeddings whose costs come beside, see `cost_map`.
    """

    embeddings: Tensor
    guidance: list[Tensor]
    correlated: Tensor | None = None

    def image(self, index: int) -> ImageFeatures:
        """One image of the batch, as a batch of one."""
        one = slice(index, index + 1)
        correlated = None if self.correlated is None else self.correlated[one]
        return ImageFeatures(self.embeddings[one], [g[one] for g in self.guidance], correlated)

    def cost_map(self, text: Tensor) -> Tensor:
        """`[B, T, P, h, w]` of text embeddings `[T, P, D]`; twice the channels with `correlated`."""
        return cost_map(self.embeddings, text, self.correlated)


class VisualGuidance(nn.Module):
    """Projects res4, res3, res2 for the three stages; gradients do not flow back into them."""

    def __init__(self, *, in_channels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size=3, padding=1) for i, o in zip(in_channels, out_channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps of the backbone, coarse to fine, projected."""
        return [F.relu(projection(x.detach())) for projection, x in zip(self.projections, features, strict=True)]


class ViTGuidance(VisualGuidance):
    """The same for maps that all lie on the first stage's grid (of a plain ViT): projected there, then resized."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps `[B, C, 2h, 2w]`, projected, on the grid of each stage."""
        return [
            F.interpolate(maps, scale_factor=2**stage, mode="bilinear", align_corners=False) if stage else maps
            for stage, maps in enumerate(super().forward(features))
        ]


class CostGuidance(nn.Module):
    """Upsamples the cost map itself, step by step, for the fusion of each stage."""

    def __init__(self, *, cost_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [cost_channels, *channels]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(i, o, kernel_size=2, stride=2) for i, o in pairwise(widths))

    def forward(self, cost: Tensor, stage: int) -> Tensor:
        """Guidance `[B, t, G, 2^(stage+1) h, 2^(stage+1) w]` from the cost map `[B, t, P, h, w]`.

        The steps before `stage` are run again: next to a stage they cost little, and kept they would fill memory.
        """
        x = channels_last(cost.flatten(0, 1))
        for up in self.ups[: stage + 1]:
            x = F.relu(up(x))
        return x.unflatten(0, cost.shape[:2])


class SEDDecoder(nn.Module):
    """From image features and text embeddings to class logits on a grid eight times as fine as the cost map's."""

    def __init__(
        self,
        *,
        cost_channels: int,
        stages: Sequence[DecoderStage],
        channels: Sequence[int],
        visual_guidance: VisualGuidance,
        cost_guidance: CostGuidance,
        class_block: int,
        neighbours: Neighbours | None = None,
    ) -> None:
        """
        Args:
            cost_channels: of the cost map, P or a multiple.
            channels: of the embedded cost map and of each stage's output.
            class_block: classes computed at a time in `predict`.
            neighbours: which classes each class reads in class aggregation; None for all.
        """
        super().__init__()
        self.embed = nn.Conv2d(cost_channels, channels[0], kernel_size=7, padding=3)
        self.stages = nn.ModuleList(stages)
        # Head i reads what stage i is given; the last one reads the last stage's output.
        self.heads = nn.ModuleList(LogitHead(c) for c in channels)
        self.visual_guidance = visual_guidance
        self.cost_guidance = cost_guidance
        self.channels = tuple(channels)
        self.class_block = class_block
        self.neighbours = neighbours

    def forward(self, features: ImageFeatures, text: Tensor) -> list[Tensor]:
        """Logits `[B, T, ...]` of all heads, coarse to fine, for training; the last is the prediction.

        All heads but the last read detached maps: they learn for early rejection and do not change the decoder.
        """
        cost = features.cost_map(text)
        x, neighbours = self.embed_cost(cost), self._neighbours(text)
        logits = []
        for index, stage in enumerate(self.stages):
            logits.append(self.head(index, x.detach()))
            guidance = self.cost_guidance(cost, index)
            whole = HeldBlocks([x])
            (x,) = stage(whole, features.guidance[index], lambda _position, guidance=guidance: guidance, neighbours)
        return [*logits, self.head(len(self.stages), x)]

    def predict(
        self, features: ImageFeatures, text: Tensor, early_rejection: EarlyRejection | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits `[K, 8h, 8w]` of one image and the classes `[K]` that they are for; all classes without `early_rejection`.

        Classes are computed in blocks, so what a stage holds inside does not grow with their number, and nothing of a
        rejected class is kept. Between stages all maps are held where they are few, else made again from those before.
        """
        kept = torch.arange(len(text), device=text.device)
        if early_rejection is not None:
            with record_function("early rejection"):
                kept = early_rejection.kept(self.early_logits(features, text))
                text = text[kept]
        with record_function("cost"):
            cost = self._costs(features, text)
            height, width = features.embeddings.shape[2:]
            embedded = self._embedded(text, cost, (height, width))
            blocks = held(embedded, values=self._values(features, len(text), 0))
        for index, stage in enumerate(self.stages):
            if early_rejection is not None and index > 0:
                with record_function("early rejection"):
                    survivors = early_rejection.kept(self.head(index, block)[0] for block in blocks)
                    kept, text = kept[survivors], text[survivors]
                    chosen = ChosenBlocks(blocks, survivors, self.class_block)
                    blocks = held(chosen, values=self._values(features, len(text), index))
                    cost = self._costs(features, text)
            with record_function(f"stage {index + 1}"):
                outputs = stage(
                    blocks,
                    features.guidance[index],
                    self._guidance_of(cost, index),
                    self._neighbours(text),
                    values=self._values(features, len(text), index),
                )
                if index < len(self.stages) - 1:
                    blocks = held(outputs, values=self._values(features, len(text), index + 1))
                    continue
                # The last stage's output is only read by the head, so no block of it is kept.
                return self._logits(outputs, len(text)), kept
        raise AssertionError("a decoder has at least one stage")

    def embed_cost(self, cost: Tensor) -> Tensor:
        """`[B, t, P, h, w]` -> `[B, t, C, h, w]`"""
        return self._embed_cost(self.embed, cost)

    @staticmethod
    def _embed_cost(embed: Callable[[Tensor], Tensor], cost: Tensor) -> Tensor:
        return channels_last(embed(channels_last(cost.flatten(0, 1)))).unflatten(0, cost.shape[:2])

    def head(self, index: int, x: Tensor) -> Tensor:
        """Logits `[B, t, h, w]` of head `index` from `[B, t, C, h, w]`."""
        return self.heads[index](x.flatten(0, 1)).unflatten(0, x.shape[:2]).squeeze(2)

    def early_logits(self, features: ImageFeatures, text: Tensor) -> Iterator[Tensor]:
        """Logits `[t, h, w]` of the first head for blocks of classes of one image.

        Nothing nonlinear lies between the cost map and this head, so its 3x3 and the embedding's 7x7 convolution are
        folded into one 7x7 convolution with a channel per tap of the 3x3; the taps are then shifted and added. Shifting
        the embedded map instead of widening the kernel keeps the zero padding of both. That is 14 times less work than
        embedding classes that are about to be rejected.
        """
        taps = self.heads[0].get_parameter("weight")[0].flatten(1)  # [C, 9]
        weight = torch.einsum("ct,cpyx->tpyx", taps, self.embed.weight)
        bias = taps.T @ self.embed.get_parameter("bias")
        for part in text.split(self.class_block):
            maps = F.conv2d(features.cost_map(part)[0], weight, bias, padding=3)
            yield add_shifted(maps.transpose(0, 1)) + self.heads[0].get_parameter("bias")

    def _neighbours(self, text: Tensor) -> Tensor | None:
        """Which of the classes `text` `[T, P, D]` each of them reads, `[T, T]`; None for all."""
        return None if self.neighbours is None else self.neighbours(text.mean(dim=1))

    def _parts(self, text: Tensor) -> tuple[Tensor, ...]:
        """Text embeddings `[T, P, D]` in blocks `[t, P, D]`."""
        return text.split(self.class_block)

    def _costs(self, features: ImageFeatures, text: Tensor) -> Callable[[int], Tensor]:
        """The cost map `[1, t, P, h, w]` of each block of `text`, by its position."""
        parts = self._parts(text)
        if fits(len(text) * self.embed.in_channels * features.embeddings[0, 0].numel()):
            return [features.cost_map(part) for part in parts].__getitem__
        return lambda position: features.cost_map(parts[position])

    def _embedded(self, text: Tensor, cost: Callable[[int], Tensor], size: Size) -> ClassBlocks:
        """`embed_cost` of the cost maps of `_costs`, on a grid of `size`."""
        parts = self._parts(text)
        embed = wide_convolution(self.embed, len(parts[0]), size)
        return MadeBlocks(HeldBlocks(parts), lambda _, position: self._embed_cost(embed, cost(position)))

    def _guidance_of(self, cost: Callable[[int], Tensor], stage: int) -> Callable[[int], Tensor]:
        return lambda position: self.cost_guidance(cost(position), stage)

    def _logits(self, blocks: ClassBlocks, classes: int) -> Tensor:
        """The last head's `[T, h, w]` of one image, written where they stay, so that they are there once."""
        logits, first = None, 0
        for block in blocks.taken():
            part = self.head(len(self.stages), block)[0]
            if logits is None:
                logits = part.new_empty(classes, *part.shape[1:])
            logits[first : first + len(part)] = part
            first += len(part)
        assert logits is not None, "there is at least one block"
        return logits

    def _values(self, features: ImageFeatures, classes: int, stage: int) -> int:
        """How many numbers the maps of `classes` hold that stage `stage` is given."""
        return classes * self.channels[stage] * 4**stage * features.embeddings[0, 0].numel()

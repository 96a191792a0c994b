"""Class aggregation: linear attention between the classes at each pixel (CAT-Seg, section 3.3; SED, section 3.2).

The sums that linear attention takes over classes are additive, so classes can come in blocks: a first pass adds up their
keys and values, a second one reads them. Of a block nothing is held once the second pass is through with it.

Legend: B images, T classes (t of a block), C channels, h x w grid, N pixels of the pooled grid, A heads, G guidance
channels.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.inference.rows import RowLayers
from twostage.systems.one_stage.cost_aggregation.blocks import ClassBlocks, HeldBlocks, MadeBlocks

_EPS = 1e-6

# What the classes of a block, given by its pooled tokens `[B, t, N, C]` (not normed) and its position, read from all classes:
# `[B, t, N, C]`.
Reader = Callable[[Tensor, int], Tensor]


class Memory(NamedTuple):
    """Sums over classes: keys times values `[B, N, A, C / A, C / A]` and keys `[B, N, A, C / A]`."""

    keys_values: Tensor
    keys: Tensor

    def __add__(self, other: Memory) -> Memory:  # type: ignore[override]
        return Memory(self.keys_values + other.keys_values, self.keys + other.keys)

    def times(self, count: int) -> Memory:
        """What `count` equal classes leave."""
        return Memory(count * self.keys_values, count * self.keys)


class LinearClassAttention(nn.Module):
    """Attention with the feature map elu + 1 (Katharopoulos et al., ICML 2020, section 3.2), without output projection."""

    def __init__(self, *, channels: int, heads: int, guidance_channels: int = 0) -> None:
        """
        Args:
            guidance_channels: of what is appended to the input of queries and keys.
        """
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels + guidance_channels, channels)
        self.k = nn.Linear(channels + guidance_channels, channels)
        self.v = nn.Linear(channels, channels)

    def memory(self, x: Tensor, guidance: Tensor | None = None) -> Memory:
        """What classes `x` `[B, t, N, C]` (guidance `[B, t, N or 1, G]`) leave for others to read."""
        keys = self._features(self.k, x, guidance)
        values = self.v(x).unflatten(-1, (self.heads, -1))
        return Memory(torch.einsum("btnad,btnae->bnade", keys, values), keys.sum(dim=1))

    def forward(self, x: Tensor, memory: Memory, guidance: Tensor | None = None) -> Tensor:
        """What classes `x` `[B, t, N, C]` read: the same shape."""
        queries = self._features(self.q, x, guidance)
        scale = 1 / ((queries * memory.keys[:, None]).sum(dim=-1, keepdim=True) + _EPS)
        return (torch.einsum("btnad,bnade->btnae", queries, memory.keys_values) * scale).flatten(3)

    def _features(self, projection: nn.Linear, x: Tensor, guidance: Tensor | None) -> Tensor:
        if guidance is None:
            projected = projection(x)
        else:
            # Apart, because guidance is often the same for all pixels.
            own, guiding = projection.weight.split([x.shape[-1], guidance.shape[-1]], dim=1)
            projected = F.linear(x, own) + F.linear(guidance, guiding, projection.bias)
        features = F.elu(projected, inplace=True).unflatten(-1, (self.heads, -1))
        return features + 1 if torch.is_grad_enabled() else features.add_(1)


class ClassAggregation(nn.Module, abc.ABC):
    """A pre-norm transformer layer over the classes of each pixel, on a pooled grid; subclasses say what classes read."""

    def __init__(
        self,
        *,
        attention: nn.Module,
        channels: int,
        train_pooling: int,
        test_pooling: int,
        feed_forward: nn.Module | None = None,
    ) -> None:
        """
        Args:
            attention: what `reader` uses.
            train_pooling, test_pooling: side of the cells that are averaged into one pixel, in training and evaluation.
            feed_forward: `[..., C]` -> the same; None for the published one, with one hidden layer of 4 C.
        """
        super().__init__()
        self.train_pooling = train_pooling
        self.test_pooling = test_pooling
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = feed_forward or RowLayers(
            nn.Linear(channels, 4 * channels), nn.ReLU(inplace=True), nn.Linear(4 * channels, channels)
        )

    def aggregate(
        self, blocks: Iterable[Tensor], guidance: Sequence[Tensor] | None = None, neighbours: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Blocks `[B, t, C, h, w]` of all classes -> the same blocks after exchange among all of them.

        Args:
            guidance: per block `[B, t, G]`, or `[B, t, N, G]` where it differs between pixels.
            neighbours: which classes each class may read, bool `[T, T]` or `[B, T, T]`; None for all.
        """
        left = HeldBlocks(blocks)
        # A caller that has the blocks for this alone has none of them any more.
        del blocks
        yield from self.exchanged(left, guidance, neighbours).taken()

    def exchanged(
        self, blocks: ClassBlocks, guidance: Sequence[Tensor] | None = None, neighbours: Tensor | None = None
    ) -> ClassBlocks:
        """`aggregate` of blocks that may have to be made for every reading: they are read here and by who reads the result."""
        extra = [None if guidance is None else _per_pixel(guidance[i]) for i in range(len(blocks))]
        read = self.reader(map(self._pool, blocks), extra, neighbours)
        return MadeBlocks(blocks, lambda block, position: self._exchange(block, position, read))

    def _exchange(self, block: Tensor, position: int, read: Reader) -> Tensor:
        tokens = self._pool(block)
        y = tokens + read(tokens, position)
        y = self.mlp(self.norm2(y)).add_(y)
        # The published layer adds its whole output, residual path included, to the unpooled input.
        return block + self._unpool(y, block)

    @abc.abstractmethod
    def reader(self, pooled: Iterable[Tensor], guidance: Sequence[Tensor | None], neighbours: Tensor | None) -> Reader:
        """From the pooled tokens `[B, t, N, C]` (not normed) of all blocks, how each of them is to read the others."""

    @property
    def pooling(self) -> int:
        return self.train_pooling if self.training else self.test_pooling

    def _pool(self, block: Tensor) -> Tensor:
        """`[B, t, C, h, w]` -> `[B, t, N, C]`"""
        if self.pooling == 1:
            return block.flatten(3).transpose(2, 3)
        maps = F.avg_pool2d(block.flatten(0, 1), self.pooling).flatten(2)
        return maps.transpose(1, 2).unflatten(0, block.shape[:2])

    def _unpool(self, tokens: Tensor, block: Tensor) -> Tensor:
        """`[B, t, N, C]` -> `[B, t, C, h, w]`, resized bilinearly with align_corners True."""
        height, width = block.shape[-2:]
        if self.pooling == 1:
            return tokens.transpose(2, 3).unflatten(3, (height, width))
        grid = (height // self.pooling, width // self.pooling)
        maps = tokens.transpose(2, 3).unflatten(3, grid).flatten(0, 1)
        maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=True)
        return maps.unflatten(0, block.shape[:2])


class LinearClassAggregation(ClassAggregation):
    """`ClassAggregation` with linear attention among all classes, as published."""

    attention: LinearClassAttention

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        train_pooling: int,
        test_pooling: int,
        guidance_channels: int = 0,
        slots: int = 0,
        feed_forward: nn.Module | None = None,
    ) -> None:
        """
        Args:
            guidance_channels: see `LinearClassAttention`.
            slots: fewer classes than this are filled up with a learnt padding class, which all others read (CAT-Seg); 0: not.
            train_pooling, test_pooling, feed_forward: see `ClassAggregation`.
        """
        super().__init__(
            attention=LinearClassAttention(channels=channels, heads=heads, guidance_channels=guidance_channels),
            channels=channels,
            train_pooling=train_pooling,
            test_pooling=test_pooling,
            feed_forward=feed_forward,
        )
        self.slots = slots
        if slots:
            self.padding_token = nn.Parameter(torch.zeros(1, 1, channels))
        if slots and guidance_channels:
            self.padding_guidance = nn.Parameter(torch.zeros(1, 1, guidance_channels))

    def reader(self, pooled: Iterable[Tensor], guidance: Sequence[Tensor | None], neighbours: Tensor | None) -> Reader:
        assert neighbours is None, "linear attention reads all classes"
        memory, classes = None, 0
        for tokens, g in zip(pooled, guidance, strict=True):
            part = self.attention.memory(self.norm1(tokens), g)
            memory = part if memory is None else part + memory
            classes += tokens.shape[1]
        padding = self._padding_memory(self.slots - classes)
        if padding is not None:
            memory = padding if memory is None else memory + padding
        assert memory is not None, "there is at least one block"
        whole = memory
        return lambda tokens, position: self.attention(self.norm1(tokens), whole, guidance[position])

    def _padding_memory(self, missing: int) -> Memory | None:
        """What the padding classes that fill `missing` slots leave; they are all alike, so one of them is computed."""
        if missing <= 0:
            return None
        guidance = self.padding_guidance[None] if hasattr(self, "padding_guidance") else None
        return self.attention.memory(self.norm1(self.padding_token[None]), guidance).times(missing)


def _per_pixel(guidance: Tensor) -> Tensor:
    """Guidance `[B, t, G]` or `[B, t, N, G]` so that it goes with tokens `[B, t, N, C]`: `[B, t, N or 1, G]`."""
    return guidance if guidance.ndim == 4 else guidance[:, :, None]

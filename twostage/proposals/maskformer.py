"""MaskFormer's mask generator: queries that look at the backbone's coarsest map, and masks as inner products.

MaskFormer (Cheng et al., NeurIPS 2021, section 3.2 and figure 2), the form without transformer encoder that zsseg and
OVSeg use. What a query stands for is left to the system: it gets the query vectors.

Legend: B images, Q queries, C width, h x w grid of the masks (stride 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from twostage.proposals.fpn import FPNPixelDecoder
from twostage.proposals.mlp import MLP
from twostage.proposals.position import sine_position_code
from twostage.proposals.queries import MaskedQueries
from twostage.proposals.transformer import DecoderLayer


class MaskFormer(nn.Module):
    """Pixel decoder, transformer decoder and mask head on top of a backbone's feature maps."""

    def __init__(
        self,
        *,
        channels: Mapping[str, int],
        num_queries: int,
        width: int,
        mask_channels: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        """
        Args:
            channels: backbone map -> its channels, finest first; queries look at the last one.
            width: C, also of the pyramid.
            layers: decoder layers, each of which proposes masks in training.
            hidden: width inside the feed-forward layers.
        """
        super().__init__()
        self.coarsest = list(channels)[-1]
        self.pixel_decoder = FPNPixelDecoder(channels=channels, width=width, mask_channels=mask_channels)
        self.input_proj = nn.Conv2d(channels[self.coarsest], width, kernel_size=1)
        c2_xavier_fill(self.input_proj)
        self.query_embed = nn.Embedding(num_queries, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width=width, heads=heads, hidden=hidden, cross_attention_first=False, dropout=dropout)
            for _ in range(layers)
        )
        # One norm behind all layers.
        self.norm = nn.LayerNorm(width)
        self.mask_embed = MLP([width, width, width, mask_channels])

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: Mapping[str, int]) -> MaskFormer:
        """From the keys of `MODEL.MASKFORMER`, for a backbone's maps."""
        keys = cfg.MODEL.MASKFORMER
        return cls(
            channels=channels,
            num_queries=keys.NUM_QUERIES,
            width=keys.WIDTH,
            mask_channels=keys.MASK_CHANNELS,
            layers=keys.LAYERS,
            heads=keys.HEADS,
            hidden=keys.FEED_FORWARD,
            dropout=keys.DROPOUT,
        )

    def forward(self, features: Mapping[str, Tensor]) -> list[MaskedQueries]:
        """Masks of the last layer; in training followed by those of the others, from the first on.

        Args:
            features: backbone maps by name.
        """
        mask_features = self.pixel_decoder(features)
        outputs = self.decode(features[self.coarsest])
        wanted = [outputs[-1], *outputs[:-1]] if self.training else outputs[-1:]
        return [MaskedQueries(x, torch.einsum("bqc,bchw->bqhw", self.mask_embed(x), mask_features)) for x in wanted]

    def decode(self, coarse: Tensor) -> list[Tensor]:
        """Query vectors `[B, Q, C]` behind each layer, from the coarsest map `[B, channels, h', w']`."""
        projected = self.input_proj(coarse)
        memory = projected.flatten(2).transpose(1, 2)
        grid = (coarse.shape[2], coarse.shape[3])
        memory_position = sine_position_code(grid, memory.shape[2], memory.device).to(memory.dtype)[None]
        position = self.query_embed.weight.expand(len(memory), -1, -1)
        x = torch.zeros_like(position)
        outputs = []
        for layer in self.layers:
            x = layer(x, position, memory, memory_position)
            outputs.append(self.norm(x))
        return outputs

"""Segment Anything (Kirillov et al., ICCV 2023): transformers' networks, walked so that the last attention can be read.

transformers does not hand out the last block's values, and its attention only whole, 12 x 4096 x 4096; here it is made a few
rows of the picture at a time. The walk is over transformers' own modules, so weights have its names (`sam_names.py`).

Legend: B pictures, h x w = 64 x 64 tokens, n = h * w, W width, H heads, d = W / H, P prompts.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from twostage.errors import UserError
from twostage.foundation.keys import SamName

# Side of the square that the networks take, in pixels; shorter pictures are padded.
SIDE = 1024
PATCH = 16
# Rows of tokens whose attention is made at once: 4 x 64 x 4096 numbers per head.
_ROWS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamShape:
    """What tells one image tower from another; `attends_globally` are the blocks without windows, `file` the
    authors' checkpoint."""

    width: int
    depth: int
    heads: int
    attends_globally: tuple[int, ...]
    file: str


SAM_SHAPES: dict[SamName, SamShape] = {
    "sam_vitb": SamShape(width=768, depth=12, heads=12, attends_globally=(2, 5, 8, 11), file="sam_vit_b_01ec64.pth"),
    "sam_vitl": SamShape(width=1024, depth=24, heads=16, attends_globally=(5, 11, 17, 23), file="sam_vit_l_0b3195.pth"),
    "sam_vith": SamShape(width=1280, depth=32, heads=16, attends_globally=(7, 15, 23, 31), file="sam_vit_h_4b8939.pth"),
}


class LastAttention(NamedTuple):
    """What goes into the last block's attention: queries, keys and values `[H, h, w, d]` of one picture."""

    queries: Tensor
    keys: Tensor
    values: Tensor


class Sam(nn.Module):
    """Image tower, prompt encoder and mask decoder, frozen."""

    def __init__(self, *, shape: SamShape, side: int = SIDE) -> None:
        """
        Args:
            side: of the square that the networks take, in pixels.

        Raises:
            UserError: transformers is not installed.
        """
        super().__init__()
        library = transformers_library("SAM")
        config = library.SamConfig(
            vision_config={
                "hidden_size": shape.width,
                "num_hidden_layers": shape.depth,
                "num_attention_heads": shape.heads,
                "global_attn_indexes": shape.attends_globally,
                "num_pos_feats": 128,
                "image_size": side,
            },
            prompt_encoder_config={"image_size": side},
            # The authors' transformer between prompts and picture has torch's epsilon, not that of their towers.
            mask_decoder_config={"layer_norm_eps": 1e-5},
        )
        whole = library.SamModel(config)
        self.vision_encoder = whole.vision_encoder
        self.prompt_encoder = whole.prompt_encoder
        self.mask_decoder = whole.mask_decoder
        self.side = side

    @property
    def layers(self) -> list[Any]:
        """Blocks of the image tower."""
        return list(self.vision_encoder.layers)

    def last_input(self, images: Tensor) -> Tensor:
        """Tokens `[B, h, w, W]` in front of the last block, of images `[B, 3, side, side]` in the tower's units."""
        x = self.vision_encoder.patch_embed(images) + self.vision_encoder.pos_embed
        for layer in self.layers[:-1]:
            x = run_layer(layer, x)
        return x

    def embedding(self, last_input: Tensor) -> Tensor:
        """The picture's embedding `[B, 256, h, w]` from the tokens in front of the last block."""
        return self.vision_encoder.neck(run_layer(self.layers[-1], last_input))

    def forward(self, images: Tensor) -> Tensor:
        """The embedding `[B, 256, h, w]` of images `[B, 3, side, side]` in the tower's units."""
        return self.embedding(self.last_input(images))

    def last_attention(self, last_input: Tensor) -> LastAttention:
        """Of the last block, for the tokens `[1, h, w, W]` in front of it."""
        layer = self.layers[-1]
        return _project(layer.attn, layer.layer_norm1(last_input)[0])

    def attention_rows(self, part: LastAttention, head: int, rows: slice) -> Tensor:
        """Softmaxed attention `[rows * w, n]` of one head of the last block, from the tokens of the grid's `rows`."""
        return _attention_rows(self.layers[-1].attn, part.queries[head], part.keys[head], rows)

    def decode_single(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits `[P, 1, 4 h, 4 w]` and predicted IoUs `[P, 1]` of prompts: the single mask of each.

        Args:
            embedding: of one picture, `[1, 256, h, w]`.
            sparse: embedded points and boxes `[P, S, 256]`.
            dense: embedded mask prompt `[1, 256, h, w]`.
        """
        masks, scores = self.mask_decoder(
            embedding, self.picture_positions().to(embedding.dtype), sparse[None], dense, multimask_output=False
        )
        return masks[0], scores[0]

    def picture_positions(self) -> Tensor:
        """Codes `[1, 256, h, w]` of the tokens' positions."""
        side = self.side // PATCH
        device = self.prompt_encoder.no_mask_embed.weight.device
        at = (torch.arange(side, device=device) + 0.5) / side
        xy = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)
        return self.prompt_encoder.shared_embedding(xy).permute(2, 0, 1)[None]

    def embed_points(self, points: Tensor, boxes: Tensor | None = None) -> Tensor:
        """`[P, S, 256]` of a positive point `[P, 2]` (x, y in pixels of the square) each, and a box `[P, 4]` where given."""
        labels = torch.ones(1, len(points), 1, device=points.device)
        sparse, _ = self.prompt_encoder(points[None, :, None], labels, None if boxes is None else boxes[None], None)
        return sparse[0]

    def no_mask(self) -> Tensor:
        """The dense embedding `[1, 256, h, w]` of no mask prompt."""
        side = self.side // PATCH
        return self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand(-1, -1, side, side)


def transformers_library(what: str) -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f"{what} runs on the library transformers, which is not installed; install it by `pip install twostage[sam]`"
        ) from error
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers


def run_layer(layer: Any, x: Tensor) -> Tensor:
    """One block of the image tower on tokens `[B, h, w, W]`; global attention goes row by row, never n x n per head."""
    if layer.window_size > 0:
        return layer(x)
    normed = layer.layer_norm1(x)
    x = x + layer.attn.proj(torch.stack([_attend(layer.attn, tokens) for tokens in normed]))
    return x + layer.mlp(layer.layer_norm2(x))


def _project(attention: Any, tokens: Tensor) -> LastAttention:
    """Queries, keys and values `[H, h, w, d]` of tokens `[h, w, W]`."""
    heads = attention.num_attention_heads
    return LastAttention(*attention.qkv(tokens).unflatten(-1, (3, heads, -1)).permute(2, 3, 0, 1, 4))


def _attend(attention: Any, tokens: Tensor) -> Tensor:
    """A v `[h, w, W]` of tokens `[h, w, W]`, before the output projection."""
    q, k, v = _project(attention, tokens)
    heads = []
    for head in range(len(q)):
        values = v[head].flatten(0, 1)
        heads.append(
            torch.cat([_attention_rows(attention, q[head], k[head], r) @ values for r in row_blocks(len(tokens))])
        )
    return torch.stack(heads, dim=1).flatten(1).unflatten(0, tokens.shape[:2])


def row_blocks(height: int) -> Iterator[slice]:
    """Rows of a grid, a few at a time."""
    for start in range(0, height, _ROWS):
        yield slice(start, min(start + _ROWS, height))


def _attention_rows(attention: Any, queries: Tensor, keys: Tensor, rows: slice) -> Tensor:
    """Softmax `[rows * w, h * w]` of scaled products and relative positions, of one head's `[h, w, d]`."""
    height, width, _ = keys.shape
    some = queries[rows]
    vertical = attention.get_rel_pos(height, height, attention.rel_pos_h)[rows]
    horizontal = attention.get_rel_pos(width, width, attention.rel_pos_w)
    logits = ((some * attention.scale).flatten(0, 1) @ keys.flatten(0, 1).T).view(*some.shape[:2], height, width)
    logits = logits + torch.einsum("rwd,rkd->rwk", some, vertical)[..., None]
    logits = logits + torch.einsum("rwd,wkd->rwk", some, horizontal)[..., None, :]
    return logits.flatten(2).flatten(0, 1).softmax(dim=-1)

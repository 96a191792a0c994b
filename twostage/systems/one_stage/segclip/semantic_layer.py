"""SegCLIP's semantic layer: learnable centres that gather the patches of an image into groups (SegCLIP, section 3.2).

Legend: B images, L patches, K centres, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.towers.vit import merge_heads, project_qkv

# Temperature of the training assignment's Gumbel softmax.
_TEMPERATURE = 0.9
# The start from content: a group's patches say this much more than its centre's query; its token is this long, so that the
# next block's attention, much the same for all groups of an image, does not outweigh it; the output's activation works
# around this value, where it is nearly linear.
_CONTENT_GAIN, _TOKEN_SCALE, _LINEAR_AROUND = 4.0, 4.0, 16.0


class Grouping(NamedTuple):
    """Groups of an image's patches.

    Attributes:
        tokens: `[B, K, W]`, one per centre, made of the patches assigned to it.
        hard: `[B, K, L]`, one-hot over the centres with the gradient of the (in training noisy) softmax.
        soft: `[B, K, L]`, the plain softmax over the centres.
    """

    tokens: Tensor
    hard: Tensor
    soft: Tensor


class CrossAttentionBlock(nn.Module):
    """CLIP's residual attention block with keys of its own: centres look at centres and patches."""

    def __init__(self, *, width: int, heads: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_x = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=activation(), c_proj=nn.Linear(4 * width, width))
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor, *, mix_batch: bool = False) -> Tensor:
        """Centres `[B, K, W]` after looking at `memory` `[B, S, W]`; `mix_batch` as in `SemanticLayer`."""
        keys = self.ln_k(memory)
        if mix_batch:
            keys = keys.reshape(keys.shape[1], keys.shape[0], keys.shape[2]).transpose(0, 1)
        (q,) = project_qkv(self.attn, self.ln_x(x), "q")
        k, v = project_qkv(self.attn, keys, "kv")
        x = x + self.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return x + self.mlp(self.ln_2(x))


class SemanticLayer(nn.Module):
    """Patches `[B, L, W]` to `K` groups: centres attend to the patches twice, then every patch goes to one centre."""

    def __init__(
        self, *, width: int, heads: int, num_centres: int, activation: type[nn.Module], mix_batch: bool = False
    ) -> None:
        """
        Args:
            activation: of CLIP's own blocks.
            mix_batch: the published training read the keys `[B, S, W]` of the cross-attention as `[S, B, W]`, so image b
                of a batch attended to the tokens whose index in the whole batch is b modulo B. True does the same (parity
                with the published run); with one image there is no difference.
        """
        super().__init__()
        self.mix_batch = mix_batch
        self.centres = nn.Parameter(torch.empty(num_centres, width))
        self.norm = nn.LayerNorm(width)
        self.cross_attention = nn.ModuleList(
            CrossAttentionBlock(width=width, heads=heads, activation=activation) for _ in range(2)
        )
        self.query_norm = nn.LayerNorm(width)
        self.key = nn.Conv1d(width, width, kernel_size=1, groups=heads, bias=False)
        self.key_norm = nn.LayerNorm(width)
        self.value = nn.Conv1d(width, width, kernel_size=1, groups=heads, bias=False)
        self.output_norm = nn.LayerNorm(width)
        self.output = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, 4 * width),
                gelu=nn.GELU(),
                fc2=nn.Linear(4 * width, width),
                activation=activation(),
            )
        )
        initialise(self)
        nn.init.trunc_normal_(self.centres, std=0.02)

    @torch.no_grad()
    def start_from_content(self) -> None:
        """Set the values and the output so that a group's token is, but for norms, the mean of its patches.

        From the published start all groups of an image are alike: the centres' queries outweigh what the patches say, the
        next block's attention outweighs both, and it takes long to tell groups apart. `gelu(x) - gelu(-x)` is x, and
        the constant around which the last activation works is taken out by the norms of the blocks that follow.
        """
        width = len(self.value.weight)
        nn.init.dirac_(self.value.weight, groups=self.value.groups)
        self.value.weight *= _CONTENT_GAIN
        identity = torch.eye(width)
        first, last = cast(nn.Linear, self.output.fc1), cast(nn.Linear, self.output.fc2)
        first.weight[: 2 * width] = torch.cat([identity, -identity])
        last.weight[:, : 2 * width] = _TOKEN_SCALE * torch.cat([identity, -identity], dim=1)
        nn.init.constant_(last.bias, _LINEAR_AROUND)

    def forward(self, x: Tensor) -> Grouping:
        """Group patch tokens `[B, L, W]`."""
        normed = self.norm(x)
        queries = self._queries(x)
        keys = self.key_norm(self.key(normed.mT).mT)
        values = self.value(normed.mT).mT
        # No scaling: logits of +-30 make the assignment nearly one-hot.
        logits = queries @ keys.mT
        soft = logits.softmax(dim=1)
        hard = assign(logits, noisy=self.training)
        gathered = (hard @ values) / hard.sum(dim=2, keepdim=True).clamp(min=1)
        return Grouping(self.output(self.output_norm(queries + gathered)), hard, soft)

    def _queries(self, x: Tensor) -> Tensor:
        """Centres `[B, K, W]` that know the image; the patches are taken without `norm`."""
        queries = self.centres.expand(len(x), -1, -1)
        for block in self.cross_attention:
            queries = block(queries, torch.cat([queries, x], dim=1), mix_batch=self.mix_batch)
        return self.query_norm(queries)


def assign(logits: Tensor, *, noisy: bool) -> Tensor:
    """One-hot over the centres `[B, K, L]` with the gradient of a softmax (straight-through Gumbel softmax).

    `noisy` (training) draws Gumbel noise and applies the temperature; without it the best centre wins.
    """
    scores = (logits + gumbel_noise(logits)) / _TEMPERATURE if noisy else logits
    soft = scores.softmax(dim=1)
    one_hot = F.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype).mT
    return one_hot - soft.detach() + soft


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape of `like`."""
    return -torch.empty_like(like).exponential_().log()


def initialise(module: nn.Module) -> None:
    """The published start of what CLIP does not have: weights normal with deviation 0.02, biases 0, norms 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv1d):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.MultiheadAttention):
            nn.init.normal_(part.in_proj_weight, std=0.02)
            nn.init.zeros_(part.in_proj_bias)

"""Training the tiny CLIPs from captioned toybox pictures: the pool of pictures, the losses, the loop.

Shapes: B pictures and captions per batch, P patches, D embedding width, M names that captions can mention.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from twostage.clip.toybox_models import toybox_tokenizer
from twostage.clip.vit import finish_block, merge_heads, project_qkv, project_tokens
from twostage.config import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from twostage.data.toybox.captions import NAMES, render_captioned, sentence
from twostage.data.toybox.textures import TextureBank

# Pictures are rendered this much larger than they are used, for random crops.
_MARGIN = 8
# Last blocks in which the class token may be restricted to a region.
_TAIL = 2
_MOST_MENTIONS = 8
_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one tiny CLIP is trained; the defaults are the shipped ones."""

    seed: int = 0
    steps: int = 4000
    batch_size: int = 256
    # Side of the pictures in pixels.
    side: int = 64
    # Every n-th step lays four pictures at a time out as one.
    mosaic_every: int = 3
    pool_size: int = 60_000
    learning_rate: float = 1.0e-3
    weight_decay: float = 0.1
    warmup: int = 150
    # Weight and temperature of the contrastive loss on pooled dense features.
    dense_weight: float = 0.5
    dense_temperature: float = 0.1


class Pool(NamedTuple):
    """Captioned pictures: `images` uint8 [n, S, S, 3], `mentions` int64 [n, 8] (-1 = none), `sizes` int64 [n]."""

    images: np.ndarray
    mentions: np.ndarray
    sizes: np.ndarray


def _render_chunk(job: tuple[int, int, int, int, bool]) -> Pool:
    seed, chunk, count, side, crowded = job
    bank = TextureBank(seed + 1, tiles_per_stuff=12)
    images = np.empty((count, side, side, 3), np.uint8)
    mentions = np.full((count, _MOST_MENTIONS), -1, np.int64)
    sizes = np.empty(count, np.int64)
    for i in range(count):
        rng = np.random.default_rng([seed, side, chunk, i])
        things = int(rng.integers(1, 5)) if crowded else None
        picture = render_captioned(rng, bank, side, things)
        images[i], sizes[i] = picture.image, picture.size
        mentions[i, : len(picture.mentions)] = picture.mentions
    return Pool(images, mentions, sizes)


def render_pool(seed: int, count: int, side: int, *, crowded: bool = False, workers: int = 2) -> Pool:
    """Render `count` captioned pictures; the same for any number of workers."""
    jobs = [
        (seed, chunk, min(_CHUNK, count - chunk * _CHUNK), side, crowded) for chunk in range(math.ceil(count / _CHUNK))
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        parts = list(tqdm(processes.imap(_render_chunk, jobs), f"pictures of {side} px", len(jobs), leave=False))
    return Pool(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Batch(NamedTuple):
    """`images` normalised [B, 3, S, S], their captions, `mentions` multi-hot float [B, M]."""

    images: Tensor
    captions: list[str]
    mentions: Tensor


def sample_batch(pool: Pool, rng: np.random.Generator, count: int, side: int) -> Batch:
    """`count` random pictures with random crop, mirror and light, and freshly worded captions."""
    chosen = rng.integers(len(pool.images), size=count)
    images = np.empty((count, side, side, 3), np.uint8)
    room = pool.images.shape[1] - side + 1
    for place, index in enumerate(chosen):
        top, left = rng.integers(room, size=2)
        crop = pool.images[index, top : top + side, left : left + side]
        images[place] = crop[:, ::-1] if rng.random() < 0.5 else crop
    light = rng.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32)
    mentions = np.zeros((count, len(NAMES)), np.float32)
    texts = []
    for place, index in enumerate(chosen):
        named = pool.mentions[index][pool.mentions[index] >= 0]
        mentions[place, named] = 1
        texts.append(sentence(rng, tuple(named.tolist()), int(pool.sizes[index])))
    pixels = torch.from_numpy(images.astype(np.float32) * light).permute(0, 3, 1, 2).clamp_(0, 255)
    return Batch(normalise(pixels), texts, torch.from_numpy(mentions))


def normalise(pixels: Tensor) -> Tensor:
    """CLIP's normalisation of RGB pixels [B, 3, H, W] on 0..255."""
    mean, std = torch.tensor(CLIP_PIXEL_MEAN), torch.tensor(CLIP_PIXEL_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, H, N, W / H], written out: on a CPU the fused kernel's backward pass takes twice the time."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -1e4)
    return scores.softmax(-1).to(v.dtype) @ v


def attention_block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One residual attention block on tokens [B, N, W]."""
    q, k, v = project_qkv(block.attn, block.ln_1(x))
    return finish_block(block, x, merge_heads(attend(q, k, v, mask)))


def encode_captions(model: nn.Module, texts: Sequence[str]) -> Tensor:
    """Unit text embeddings [len(texts), D]. The text tower is causal, so it runs only up to the longest caption."""
    tokens = toybox_tokenizer()(list(texts))
    tokens = tokens[:, : int((tokens > 0).sum(1).max())]
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    for block in model.transformer.resblocks:
        x = attention_block(block, x, causal)
    # End of text has the largest id.
    x = model.ln_final(x[torch.arange(len(x)), tokens.argmax(1)]) @ model.text_projection
    return F.normalize(x.float(), dim=-1)


def window_tokens(visual: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """First tokens [B, 1 + P, W] of pictures that are windows of the model's canvas, each at a random place.

    A small picture gets the position embeddings of its window, as if the rest of a full canvas had been dropped; so
    every position learns from pictures of every size.
    """
    patches = visual.conv1(images)
    rows, cols = patches.shape[2:]
    x = patches.flatten(2).transpose(1, 2)
    side = round((len(visual.positional_embedding) - 1) ** 0.5)
    top = torch.randint(side - rows + 1, (len(x), 1, 1), generator=generator)
    left = torch.randint(side - cols + 1, (len(x), 1, 1), generator=generator)
    index = (top + torch.arange(rows)[:, None]) * side + left + torch.arange(cols)
    x = x + visual.positional_embedding[1:][index.flatten(1)]
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([first, x], dim=1))


def restricted_class_tokens(blocks: Sequence[nn.Module], x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Run `blocks` on tokens `x` [B, 1 + P, W] with one copy of the class token per region `inside` [B, R, P] (bool).

    A copy sees itself and the patches of its region; patches see the plain tokens only (SAN's shadow tokens). Returns
    the copies [B, R, W] and the input of the last block, [B, 1 + P, W].
    """
    regions = inside.shape[1]
    shadow, before_last = x[:, :1].expand(-1, regions, -1), x
    itself = torch.eye(regions, dtype=torch.bool).expand(len(x), -1, -1)
    plain = torch.zeros(len(x), regions, 1, dtype=torch.bool)
    mask = torch.cat([itself, plain, inside], 2)[:, None]
    for number, block in enumerate(blocks, start=1):
        before_last = x
        q, k, v = project_qkv(block.attn, block.ln_1(torch.cat([shadow, x], 1)))
        attended = merge_heads(attend(q[:, :, :regions], k, v, mask))
        shadow = finish_block(block, shadow, attended)
        if number < len(blocks):
            attended = merge_heads(attend(q[:, :, regions:], k[:, :, regions:], v[:, :, regions:]))
            x = finish_block(block, x, attended)
    return shadow, before_last


def value_path(visual: nn.Module, x: Tensor) -> Tensor:
    """Dense embeddings [B, P, D] from the last block's input `x` [B, 1 + P, W]: its value and output projections only."""
    last = visual.transformer.resblocks[-1]
    (value,) = project_qkv(last.attn, last.ln_1(x[:, 1:]), "v")
    return project_tokens(visual, last.attn.out_proj(merge_heads(value)))


def vit_features(visual: nn.Module, images: Tensor, mosaic: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Class-token embeddings [B, D] and dense value-path embeddings [B, P, D] of pictures [B, 3, S, S].

    With `mosaic`, four pictures at a time are laid out as one of twice the side, and in the last two blocks each has its
    own copy of the class token that sees only a random part of its quarter: the way SAN will ask for a region.
    """
    blocks = list(visual.transformer.resblocks)
    if not mosaic:
        x = window_tokens(visual, images, generator)
        for block in blocks[:-1]:
            x = attention_block(block, x)
        everywhere = torch.ones(len(x), 1, x.shape[1] - 1, dtype=torch.bool)
        token, _ = restricted_class_tokens(blocks[-1:], x, everywhere)
        return project_tokens(visual, token)[:, 0], value_path(visual, x)
    side = images.shape[2]
    canvas = images.unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, 2 * side, 2 * side)
    x = window_tokens(visual, canvas, generator)
    half = side // visual.conv1.kernel_size[0]
    quarter = torch.arange(4).view(2, 2).repeat_interleave(half, 0).repeat_interleave(half, 1).flatten()
    kept = (
        torch.rand(len(x), 4, len(quarter), generator=generator) < torch.rand(len(x), 4, 1, generator=generator) + 0.3
    )
    for block in blocks[:-_TAIL]:
        x = attention_block(block, x)
    tokens, x = restricted_class_tokens(blocks[-_TAIL:], x, kept & (quarter == torch.arange(4)[:, None]))
    dense = value_path(visual, x).unflatten(1, (2, half, 2, half)).transpose(2, 3)
    return project_tokens(visual, tokens).flatten(0, 1), dense.reshape(len(images), half * half, -1)


def convnext_features(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled embedding [B, D] and dense embeddings [B, P, D] of a timm tower: the same head on every cell."""
    cells = visual.trunk.forward_features(images)
    pooled = visual.head(visual.trunk.forward_head(cells))
    dense = visual.head(visual.trunk.head.norm(cells).flatten(2).transpose(1, 2))
    return pooled, dense


def caption_targets(mentions: Tensor) -> Tensor:
    """Which captions hold for which pictures, as far as the pictures' own captions tell: bool [B, B].

    Caption j holds for picture i when everything it mentions is mentioned by caption i too.
    """
    return mentions @ mentions.T >= mentions.sum(1)


def contrastive_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, with the target spread evenly over all positives of a row (of a column)."""
    target = positives.float()
    rows = -(F.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    columns = -(F.log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (rows.mean() + columns.mean()) / 2


def pooled_similarity(dense: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Similarity [B, T] of pictures and texts: a soft maximum over patches of cosine similarities."""
    cosine = torch.einsum("bpd,td->btp", F.normalize(dense, dim=-1), text)
    return temperature * (torch.logsumexp(cosine.float() / temperature, 2) - math.log(cosine.shape[2]))


def schedule(step: int, recipe: Recipe) -> float:
    """Learning-rate factor: linear warm-up, then cosine to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * min(step / recipe.steps, 1.0)))


def training_losses(
    model: nn.Module, batch: Batch, recipe: Recipe, mosaic: bool, generator: torch.Generator
) -> dict[str, Tensor]:
    """Contrastive losses of one batch: of the picture embedding and of the pooled dense embeddings."""
    with torch.autocast("cpu", torch.bfloat16):
        if hasattr(model.visual, "trunk"):
            picture, dense = convnext_features(model.visual, batch.images)
        else:
            picture, dense = vit_features(model.visual, batch.images, mosaic, generator)
        text = encode_captions(model, batch.captions)
        similarity = pooled_similarity(dense, text, recipe.dense_temperature)
    positives = caption_targets(batch.mentions)
    scale = model.logit_scale.exp()
    return {
        "token": contrastive_loss(scale * F.normalize(picture.float(), dim=-1) @ text.T, positives),
        "dense": contrastive_loss(scale * similarity, positives) * recipe.dense_weight,
    }


def train(model: nn.Module, recipe: Recipe, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
    """Train `model` in place; `report(step, losses)` is called every 100 steps."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pool = render_pool(recipe.seed, recipe.pool_size, recipe.side + _MARGIN)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    model.train()
    mean: dict[str, float] = {}
    progress = tqdm(range(recipe.steps), "tiny CLIP", mininterval=5)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, recipe)
        mosaic = bool(recipe.mosaic_every) and step % recipe.mosaic_every == recipe.mosaic_every - 1
        batch = sample_batch(pool, rng, recipe.batch_size, recipe.side)
        losses = training_losses(model, batch, recipe, mosaic, generator)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        for key, value in losses.items():
            name = f"{key} (mosaic)" if mosaic else key
            mean[name] = 0.95 * mean.get(name, value.item()) + 0.05 * value.item()
        progress.set_postfix({key: f"{value:.3f}" for key, value in mean.items()}, refresh=False)
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, mean)
    model.eval()

"""Training the tiny CLIPs from captioned toybox pictures: the pool of pictures, the losses, the loop.

Legend: B pictures and captions per batch, P patches, D embedding width, M names that captions can mention.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.toybox.towers import convnext_features, encode_captions, vit_features
from twostage.data.toybox.captioned import NAMES, TEMPLATES, less_exact, render_captioned, sentence, simplify
from twostage.data.toybox.textures import TextureBank
from twostage.data.toybox.words import ALL_THINGS, STUFF

# Pictures are rendered this much larger than they are used, for random crops.
_MARGIN = 8
_MOST_MENTIONS = 8
_CHUNK = 500
# Names that mentions can be by the most exact captions, and the words they are made of.
EXACT_NAMES = NAMES[: len(STUFF) + len(ALL_THINGS)]
WORDS = tuple(sorted({word for name in EXACT_NAMES for word in name.split()}))
# Share of captions that name things less exactly.
_SIMPLIFIED = 0.25


@dataclass(frozen=True, kw_only=True)
class ToyClipRecipe:
    """How one tiny CLIP is trained; the shipped ones are in RECIPES."""

    seed: int = 0
    steps: int
    batch_size: int = 128
    # Side of the pictures in pixels.
    side: int = 64
    # Every n-th step lays four pictures at a time out as one (ViT only; 0: never).
    mosaic_every: int = 0
    pool_size: int = 60_000
    # AdamW's, for embeddings, norms and biases; matrices inside the blocks are Muon's, at its own rate.
    learning_rate: float = 1.2e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.1
    warmup: int = 50
    # Weight of the bag-of-words loss.
    word_weight: float = 2.0
    # Contrastive loss on pooled dense features: its weight at first, the share of the steps over which that falls to
    # zero (the class token then shapes the features alone), and the temperature of the pooling.
    dense_weight: float = 0.1
    dense_until: float = 0.6
    dense_temperature: float = 0.1


# The dense loss is kept weak: a strong one trains the dense baseline itself, up to what a side adapter reaches.
RECIPES: dict[str, ToyClipRecipe] = {
    "toybox-vit": ToyClipRecipe(steps=1600, mosaic_every=3, dense_weight=0.03),
    "toybox-convnext": ToyClipRecipe(steps=1800, batch_size=64, dense_weight=0.3),
}


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
    """Pictures and captions. `images` is normalised [B, 3, S, S].

    `mentions` [B, M] (float, multi-hot) is what each caption mentions, `implied` [B, M] what is true of its picture by its
    most exact caption: all of those mentions and their less exact names.
    """

    images: Tensor
    captions: list[str]
    mentions: Tensor
    implied: Tensor


def sample_batch(pool: Pool, rng: np.random.Generator, chosen: np.ndarray, side: int) -> Batch:
    """The `chosen` pictures with random crop, mirror and light, and freshly worded captions."""
    count = len(chosen)
    images = np.empty((count, side, side, 3), np.uint8)
    room = pool.images.shape[1] - side + 1
    for place, index in enumerate(chosen):
        top, left = rng.integers(room, size=2)
        crop = pool.images[index, top : top + side, left : left + side]
        images[place] = crop[:, ::-1] if rng.random() < 0.5 else crop
    light = rng.uniform(0.85, 1.15, (count, 1, 1, 1)).astype(np.float32)
    mentions = np.zeros((count, len(NAMES)), np.float32)
    implied = np.zeros((count, len(NAMES)), np.float32)
    texts = []
    for place, index in enumerate(chosen):
        named = tuple(pool.mentions[index][pool.mentions[index] >= 0].tolist())
        for mention in named:
            implied[place, [mention, *less_exact(mention)]] = 1
        if rng.random() < _SIMPLIFIED:
            named = simplify(rng, named)
        mentions[place, named] = 1
        texts.append(sentence(rng, named, int(pool.sizes[index])))
    pixels = torch.from_numpy(images.astype(np.float32) * light).permute(0, 3, 1, 2).clamp_(0, 255)
    return Batch(PixelUnits(CLIP_STATISTICS)(pixels), texts, torch.from_numpy(mentions), torch.from_numpy(implied))


def caption_targets(mentions: Tensor, implied: Tensor) -> Tensor:
    """Which captions hold for which pictures, as far as the pictures' own captions tell: bool [B, B].

    Caption j holds for picture i when all it mentions is implied by what is said of picture i.
    """
    return implied @ mentions.T >= mentions.sum(1)


def contrastive_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy, with the target spread evenly over all positives of a row (of a column)."""
    target = positives.float()
    rows = -(F.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    columns = -(F.log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (rows.mean() + columns.mean()) / 2


def name_targets(mentions: Tensor) -> tuple[Tensor, Tensor]:
    """What each picture is to be told apart as, among all exact names: (target [B, N], rows sum to 1; ignored [B, N]).

    The target is spread over the things that the exact caption mentions, or over the stuff where it mentions none; stuff
    mentioned beside things is neither target nor wrong.
    """
    mentions = mentions[:, : len(EXACT_NAMES)]
    stuff = torch.arange(mentions.shape[1]) < len(STUFF)
    has_things = mentions[:, ~stuff].any(1, keepdim=True)
    positive = mentions.bool() & ~(stuff & has_things)
    return positive / positive.sum(1, keepdim=True), mentions.bool() & ~positive


def name_loss(logits: Tensor, mentions: Tensor) -> Tensor:
    """Cross-entropy of pictures [B] against all exact names [B, N].

    Every name that differs in one word (other shape, other colour) is there to be told apart in every step. In a batch's
    own captions colour and attribute tell nearly all apart, and shapes are learnt much later.
    """
    target, ignored = name_targets(mentions)
    return -(F.log_softmax(logits.masked_fill(ignored, -1e4), 1) * target).sum(1).mean()


def word_targets(mentions: Tensor) -> Tensor:
    """Share of each word in what a picture is to be told apart as, [B, W] over WORDS; rows sum to 1."""
    target, _ = name_targets(mentions)
    words = target @ torch.tensor([[float(word in name.split()) for word in WORDS] for name in EXACT_NAMES])
    return words / words.sum(1, keepdim=True)


def word_loss(logits: Tensor, mentions: Tensor) -> Tensor:
    """Cross-entropy of a bag-of-words head [B, W]: which words the exact caption says (Huang et al., NeurIPS 2024)."""
    return -(F.log_softmax(logits, 1) * word_targets(mentions)).sum(1).mean()


def pooled_similarity(dense: Tensor, text: Tensor, temperature: float) -> Tensor:
    """Similarity [B, T] of pictures and texts: a soft maximum over patches of cosine similarities."""
    cosine = torch.einsum("bpd,td->btp", F.normalize(dense, dim=-1), text)
    return temperature * (torch.logsumexp(cosine.float() / temperature, 2) - math.log(cosine.shape[2]))


def smooth_positions(rows: int, width: int, scale: float) -> Tensor:
    """Sines and cosines of row and column [rows * rows, width] at wavelengths from 4 to 64 patches, of std `scale`.

    A start in which near places look alike; from random vectors, shapes are learnt much later.
    """
    frequencies = 2 * math.pi / 4 ** torch.linspace(1, 3, width // 4)
    phase = torch.arange(rows)[:, None] * frequencies
    wave = torch.cat([phase.sin(), phase.cos()], 1)
    down = wave[:, None].expand(-1, rows, -1)
    across = wave[None].expand(rows, -1, -1)
    return torch.cat([down, across], 2).flatten(0, 1) * (scale * math.sqrt(2))


def schedule(step: int, recipe: ToyClipRecipe) -> float:
    """Learning-rate factor: linear warm-up, then cosine to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * min(step / recipe.steps, 1.0)))


def training_losses(
    model: Any,
    word_head: nn.Linear,
    batch: Batch,
    recipe: ToyClipRecipe,
    step: int,
    generator: torch.Generator,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Losses of one batch: picture embeddings with captions, all names and words, pooled dense ones with captions."""
    mosaic = bool(recipe.mosaic_every) and step % recipe.mosaic_every == recipe.mosaic_every - 1
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    with torch.autocast("cpu", torch.bfloat16):
        if hasattr(model.visual, "trunk"):
            picture, dense = convnext_features(model.visual, batch.images)
        else:
            picture, dense = vit_features(model.visual, batch.images, mosaic, generator)
        text = encode_captions(model, batch.captions)
        names = encode_captions(model, [template.format(name) for name in EXACT_NAMES])
        similarity = pooled_similarity(dense, text, recipe.dense_temperature)
    dense_weight = recipe.dense_weight * max(0.0, 1 - step / (recipe.dense_until * recipe.steps))
    positives = caption_targets(batch.mentions, batch.implied)
    scale = model.logit_scale.exp()
    words = word_head(picture.float())
    picture = F.normalize(picture.float(), dim=-1)
    return {
        "captions": contrastive_loss(scale * picture @ text.T, positives),
        "names": name_loss(scale * picture @ names.T, batch.implied),
        "words": word_loss(words, batch.implied) * recipe.word_weight,
        "dense": contrastive_loss(scale * similarity, positives) * dense_weight,
    }


def optimizers_of(model: Any, word_head: nn.Linear, recipe: ToyClipRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer (or ConvNeXt) blocks, AdamW for everything else."""
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and ("resblocks." in name or ".blocks." in name)]
    inside = {id(p) for p in blocks}
    others = [p for p in (*model.parameters(), *word_head.parameters()) if id(p) not in inside]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(blocks, lr=recipe.matrix_learning_rate, weight_decay=0.05, adjust_lr_fn="original"),
        torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98)),
    ]


def train(model: Any, recipe: ToyClipRecipe, report: Callable[[int, dict[str, float]], None] | None = None) -> None:
    """Train `model` in place; `report(step, losses)` is called every 100 steps."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pool = render_pool(recipe.seed, recipe.pool_size, recipe.side + _MARGIN)
    if not hasattr(model.visual, "trunk"):
        position = model.visual.positional_embedding
        side = round((len(position) - 1) ** 0.5)
        with torch.no_grad():
            position[1:] = smooth_positions(side, position.shape[1], float(position.std()))
    # Only a teacher: it is not part of the model that is shipped.
    word_head = nn.Linear(model.text_projection.shape[1], len(WORDS))
    optimizers = optimizers_of(model, word_head, recipe)
    groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    model.train()
    mean: dict[str, float] = {}
    progress = tqdm(range(recipe.steps), "tiny CLIP", mininterval=5)
    for step in progress:
        for group, rate in groups:
            group["lr"] = rate * schedule(step, recipe)
        batch = sample_batch(pool, rng, rng.integers(len(pool.images), size=recipe.batch_size), recipe.side)
        losses = training_losses(model, word_head, batch, recipe, step, generator, rng)
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        for name, value in losses.items():
            mean[name] = 0.95 * mean.get(name, value.item()) + 0.05 * value.item()
        progress.set_postfix({name: f"{value:.3f}" for name, value in mean.items()}, refresh=False)
        if report is not None and (step + 1) % 100 == 0:
            report(step + 1, mean)
    model.eval()

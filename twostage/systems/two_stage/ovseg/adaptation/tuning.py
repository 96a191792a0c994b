"""Training CLIP, its mask prompts, or both on mask-category pairs (OVSeg, sections 3.2 and 3.3; the authors' recipes).

Legend: B pairs of a batch, D embedding size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from twostage.clip.loading import ClipModel
from twostage.clip.regions.mask_prompt import MASK_PROMPT_NAME, has_mask_prompts, masked_image_embeddings
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.systems.two_stage.ovseg.adaptation.pair_data import PairDataset

_LARGEST_SCALE = math.log(100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """How one phase trains.

    Attributes:
        parts: "clip" (image tower, crops as they are) or "prompts" (mask prompts alone, blank patches replaced). The
            logit scale trains in both, the text tower in none.
        learning_rate: reached after `warmup` steps, then falls along a cosine to zero.
        weight_decay: of tensors with two or more axes; prompts have none.
    """

    parts: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.2
    warmup: int = 100
    seed: int = 0


# CLIP -> its phases. Published: ViT-L/14 with 32 pairs on each of 4 GPUs, ViT-B/16 with 128; prompts were tuned on L/14 only.
RECIPES: dict[str, dict[str, TuningRecipe]] = {
    "ViT-L-14": {
        "clip": TuningRecipe(parts="clip", epochs=5, batch_size=128, learning_rate=5e-6),
        "prompts": TuningRecipe(parts="prompts", epochs=5, batch_size=128, learning_rate=0.05),
    },
    "ViT-B-16": {
        "clip": TuningRecipe(parts="clip", epochs=5, batch_size=512, learning_rate=5e-6),
        "prompts": TuningRecipe(parts="prompts", epochs=5, batch_size=128, learning_rate=0.05),
    },
    "toybox-vit": {
        "clip": TuningRecipe(parts="clip", epochs=2, batch_size=64, learning_rate=1e-4, warmup=20),
        "prompts": TuningRecipe(parts="prompts", epochs=2, batch_size=64, learning_rate=0.02, warmup=20),
    },
}


def trained_parameters(clip: ClipModel, parts: str) -> dict[str, nn.Parameter]:
    """The parameters of a phase by name; all others stop requiring gradients.

    Raises:
        UserError: prompts are to be tuned, but CLIP has none.
    """
    if parts == "prompts" and not has_mask_prompts(clip.visual):
        raise UserError("this CLIP has no mask prompts to tune; give --depth 1 or more")
    chosen = {}
    for name, parameter in clip.named_parameters():
        is_prompt = name == MASK_PROMPT_NAME
        wanted = is_prompt if parts == "prompts" else name.startswith("visual.") and not is_prompt
        parameter.requires_grad_(wanted or name == "logit_scale")
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def optimizer_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for norms, biases, the class token, the logit scale and the prompts."""
    decayed = [p for n, p in parameters.items() if p.ndim >= 2 and n != MASK_PROMPT_NAME]
    others = [p for n, p in parameters.items() if p.ndim < 2 or n == MASK_PROMPT_NAME]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def learning_rate_factor(step: int, total: int, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy of unit embeddings `[B, D]`; equal titles of a batch are negatives of each other."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def tune(clip: ClipModel, text: TextEmbedder, data: PairDataset, recipe: TuningRecipe, *, workers: int = 0) -> float:
    """Train one phase in place; returns the mean loss of the last tenth of the steps.

    Args:
        text: embeds titles as they are, without a template.
    """
    device = clip.logit_scale.device
    parameters = trained_parameters(clip, recipe.parts)
    titles = text.embed_names(data.titles)
    optimizer = torch.optim.AdamW(
        optimizer_groups(parameters, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6
    )
    torch.manual_seed(recipe.seed)
    loader = DataLoader(
        data,
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=len(data) >= recipe.batch_size,
        num_workers=workers,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    total = recipe.epochs * len(loader)
    warmup = min(recipe.warmup, max(1, total // 5))
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    losses = []
    bar = tqdm(_batches(loader, recipe.epochs), f"tuning {recipe.parts}", total, leave=False)
    for step, (images, masks, labels) in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(step, total, warmup)
        shown = masks.to(device) if recipe.parts == "prompts" else None
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            embeddings = masked_image_embeddings(clip.visual, images.to(device), shown)
        embeddings = F.normalize(embeddings.float(), dim=-1)
        loss = contrastive_loss(embeddings, titles[labels.to(device)], clip.logit_scale.exp())
        if not torch.isfinite(loss):
            raise UserError(f"the loss became {loss.item()} at step {step}; lower --learning-rate")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, _LARGEST_SCALE)
        losses.append(loss.item())
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _batches(loader: DataLoader, epochs: int) -> Iterator[Any]:
    for _ in range(epochs):
        yield from loader

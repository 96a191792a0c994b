"""Training a tiny self-supervised ViT on toybox pictures, as toybox's DINO: no label, mask or word is read.

A student that sees a picture with patches blanked out says which prototype each patch is of; a teacher, the student's moving
average, says so from another crop of the same picture (DINO, Caron et al., ICCV 2021, with iBOT's masked patches, Zhou et
al., ICLR 2022, and SwAV's balanced assignments, Caron et al., NeurIPS 2020).

Legend: N pictures of S pixels, B a batch, h x w patches, K prototypes, W width.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from twostage.clip.statistics import PixelUnits
from twostage.foundation.loading import IMAGENET_STATISTICS
from twostage.foundation.vit import SHAPES, FoundationVit

_SINKHORN_ROUNDS = 3
_WARM_UP = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the tiny ViT is trained."""

    seed: int = 0
    pictures: int = 1200
    steps: int = 400
    batch: int = 16
    # Side of the crops, and how far two crops of a picture lie apart at most, in pixels.
    side: int = 96
    shift: int = 24
    rate: float = 1e-3
    momentum: float = 0.98
    prototypes: int = 128
    # Share of the student's patches that are blanked out.
    masked: float = 0.3
    student_temperature: float = 0.1
    teacher_temperature: float = 0.05
    # Pictures are made lighter or darker by up to this share.
    jitter: float = 0.2


class Prototypes(nn.Module):
    """Cosines of patches with K learned directions."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.directions = nn.Linear(width, count, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """`[B, W, h, w]` to `[B, h, w, K]`."""
        unit = F.normalize(self.hidden(patches.permute(0, 2, 3, 1)), dim=-1)
        return F.linear(unit, F.normalize(self.directions.weight, dim=-1))


def train(pictures: Tensor, recipe: Recipe) -> FoundationVit:
    """The teacher behind the last step."""
    torch.manual_seed(recipe.seed)
    shape = SHAPES["toybox_vits8"]
    student = FoundationVit(shape=shape)
    for table in (student.pos_embed, student.cls_token):
        nn.init.trunc_normal_(table, std=0.02)
    head, blank = Prototypes(shape.width, recipe.prototypes), nn.Parameter(torch.zeros(3, 1, 1))
    teacher, teacher_head = copy.deepcopy(student), copy.deepcopy(head)
    units = PixelUnits(IMAGENET_STATISTICS)
    parameters = [*student.parameters(), *head.parameters(), blank]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARM_UP, 1.0) * (1 - step / recipe.steps)
    )
    for _ in tqdm(range(recipe.steps), desc="toy ViT"):
        some = units(pictures[torch.randint(len(pictures), (recipe.batch,))].float())
        first, second, shift = two_crops(some, recipe, shape.patch)
        with torch.no_grad():
            wanted = balanced(teacher_head(teacher(second)), recipe.teacher_temperature)
        blanked = torch.rand(len(first), 1, *(recipe.side // shape.patch,) * 2) < recipe.masked
        seen = torch.where(F.interpolate(blanked.float(), size=first.shape[-2:]).bool(), blank, first)
        said = head(student(seen)) / recipe.student_temperature
        loss = matched_loss(said, wanted, shift)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        follow(teacher, student, recipe.momentum)
        follow(teacher_head, head, recipe.momentum)
    return teacher.eval()


def two_crops(images: Tensor, recipe: Recipe, patch: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Two crops `[B, 3, side, side]` with light of their own, and how many patches the second lies below and right of the
    first."""
    room = images.shape[-1] - recipe.side
    reach = min(recipe.shift, room) // patch
    rows, columns = (int(n) for n in torch.randint(-reach, reach + 1, (2,)))
    crops = []
    top, left = (int(torch.randint(max(0, -n * patch), room - max(0, n * patch) + 1, (1,))) for n in (rows, columns))
    for y, x in ((top, left), (top + rows * patch, left + columns * patch)):
        light = 1 + recipe.jitter * (2 * torch.rand(len(images), 1, 1, 1) - 1)
        crops.append(images[..., y : y + recipe.side, x : x + recipe.side] * light)
    return crops[0], crops[1], (rows, columns)


def balanced(cosines: Tensor, temperature: float) -> Tensor:
    """Assignments `[B, h, w, K]` of patches to prototypes that use all prototypes alike (Sinkhorn and Knopp)."""
    flat = (cosines / temperature).flatten(0, 2)
    flat = (flat - flat.max()).exp()
    for _ in range(_SINKHORN_ROUNDS):
        flat = flat / flat.sum(dim=0, keepdim=True)
        flat = flat / flat.sum(dim=1, keepdim=True)
    return flat.view(cosines.shape)


def matched_loss(said: Tensor, wanted: Tensor, shift: tuple[int, int]) -> Tensor:
    """Cross entropy where two crops' patches `[B, h, w, K]` show the same place; the second lies `shift` patches on."""
    (rows, columns), (height, width) = shift, said.shape[1:3]
    own = said[:, max(0, rows) : height + min(0, rows), max(0, columns) : width + min(0, columns)]
    other = wanted[:, max(0, -rows) : height + min(0, -rows), max(0, -columns) : width + min(0, -columns)]
    return -(other * own.log_softmax(dim=-1)).sum(dim=-1).mean()


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Move `slow`'s parameters towards `fast`'s."""
    for own, other in zip(slow.parameters(), fast.parameters(), strict=True):
        own.lerp_(other, 1 - momentum)

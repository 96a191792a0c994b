"""How well CLIP names masked pictures: zero-shot accuracy over given classes (OVSeg, table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from twostage.clip.loading import ClipModel
from twostage.clip.regions.mask_prompt import has_mask_prompts, masked_image_embeddings
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.systems.two_stage.ovseg.adaptation.pair_data import PairDataset
from twostage.vocabulary import Vocabulary


class Accuracy(NamedTuple):
    """In percent: over pictures, the best name or one of the best five, and the mean over classes of the former."""

    top1: float
    top5: float
    class_mean: float


@torch.no_grad()
def masked_accuracy(
    clip: ClipModel, text: TextEmbedder, data: PairDataset, names: Sequence[str], *, groups: Mapping[str, Sequence[int]]
) -> dict[str, Accuracy]:
    """Accuracy of naming masked pictures with `names`, over all of them ("all") and over those of each group of classes.

    Blank patches become mask prompts where CLIP has them. In every group a picture has to beat all names, not only the
    group's.

    Raises:
        UserError: a picture's title is not among the names.
    """
    index = {name: number for number, name in enumerate(names)}
    unknown = [title for title in data.titles if title not in index]
    if unknown:
        raise UserError(
            f"the masked pictures show {unknown[0]!r}, which is not among the {len(names)} names to choose from"
        )
    truth_of_title = torch.tensor([index[title] for title in data.titles])
    device = clip.logit_scale.device
    rows = text(Vocabulary(tuple(names)))
    truth, ranks = [], []
    for images, masks, titles in DataLoader(data, batch_size=64):
        shown = masks.to(device) if has_mask_prompts(clip.visual) else None
        embeddings = F.normalize(masked_image_embeddings(clip.visual, images.to(device), shown), dim=-1)
        similarity = (embeddings @ rows.T).cpu()
        wanted = truth_of_title[titles]
        own = similarity.gather(1, wanted[:, None])
        truth.append(wanted)
        ranks.append((similarity > own).sum(dim=1))
    wanted, rank = torch.cat(truth), torch.cat(ranks)
    results = {"all": _accuracy(wanted, rank)}
    for group, classes in groups.items():
        inside = torch.isin(wanted, torch.tensor(list(classes)))
        results[group] = _accuracy(wanted[inside], rank[inside])
    return results


def _accuracy(truth: Tensor, rank: Tensor) -> Accuracy:
    """Accuracy where `rank` names scored better than the true one."""
    best = (rank == 0).double()
    per_class = [best[truth == label].mean() for label in truth.unique()]
    if not per_class:
        return Accuracy(float("nan"), float("nan"), float("nan"))
    shares = (best.mean(), (rank < 5).double().mean(), torch.stack(per_class).mean())
    return Accuracy(*(round(100 * float(share), 2) for share in shares))

"""Classes are left out only where they can't win."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from twostage.inference import best_class
from twostage.inference.class_pruning import best_of_tiles

Call = tuple[int, int]


def _masks(size: tuple[int, int], *, queries: int = 9) -> Tensor:
    """Smooth masks `[Q, H, W]`: discs around random centres."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(size[0]).float(), torch.arange(size[1]).float(), indexing="ij")
    centres = torch.rand(queries, 2, generator=generator) * torch.tensor(size)
    distance = torch.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    return ((12 - distance) / 2).sigmoid()


def _weights(classes: int, sharpness: float, *, queries: int = 9) -> Tensor:
    logits = sharpness * torch.randn(classes, queries, generator=torch.Generator().manual_seed(1))
    return logits.softmax(dim=0)


def _pruned(weights: Tensor, masks: Tensor) -> tuple[Tensor, int]:
    """Labels, and how many pixels were computed with all classes."""
    whole = 0

    def of_all(weights: Tensor, values: Tensor) -> Tensor:
        nonlocal whole
        whole += values.shape[1]
        return best_class.best_of_products(weights, values)

    return best_of_tiles(weights, masks, of_all), whole


@pytest.mark.parametrize("size", [(40, 56), (33, 47), (5, 3)])
@pytest.mark.parametrize(("sharpness", "least", "most"), [(6.0, 0.0, 0.3), (0.0, 1.0, 1.0)])
def test_labels_are_those_of_all_classes(size: tuple[int, int], sharpness: float, least: float, most: float) -> None:
    """Sharp classes are told by a handful, of equal ones none can be left out."""
    weights, masks = _weights(400, sharpness), _masks(size)
    labels, whole = _pruned(weights, masks)
    scores = torch.einsum("cq,qhw->chw", weights.double(), masks.double())
    best = scores.gather(0, labels[None])[0]
    assert labels.shape == size and labels.dtype == torch.int64
    torch.testing.assert_close(best, scores.amax(dim=0), rtol=1e-6, atol=0)
    assert least * masks[0].numel() <= whole <= max(64, most * 1.7 * masks[0].numel())


def test_pixels_without_a_mask_are_of_the_first_class_and_rule_nothing_out() -> None:
    weights, masks = _weights(400, 6.0), _masks((32, 32))
    masks[:, :, 20:] = 0
    labels, whole = _pruned(weights, masks)
    assert labels[:, 20:].eq(0).all() and whole < 32 * 32 / 2
    covered, _ = _pruned(weights, masks[:, :, :20])
    assert torch.equal(labels[:, :20], covered)


def test_the_first_of_equals_wins() -> None:
    weights = _weights(200, 6.0).repeat(2, 1)
    labels, _ = _pruned(weights, _masks((24, 24)))
    assert labels.max() < 200


def test_label_maps_prune_from_many_classes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def watch(weights: Tensor, masks: Tensor, of_all: object) -> Tensor:
        called.append(len(weights))
        return torch.zeros(masks.shape[1:], dtype=torch.int64)

    monkeypatch.setattr(best_class, "best_of_tiles", watch)
    for classes in (20, 199, 200, 847):
        best_class.best_of_masks(torch.rand(classes, 3), torch.rand(3, 4, 4))
    assert called == [200, 847]

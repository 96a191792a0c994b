"""The tiny self-supervised ViT: crops, balanced assignments, a training that lowers its loss, the shipped weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from twostage.data.toybox.scenes import IGNORE
from twostage.errors import UserError
from twostage.evaluation.affinity_probe import at_grid, attention_purity, true_features
from twostage.foundation import toybox
from twostage.foundation.loading import read_foundation

RECIPE = toybox.Recipe(pictures=4, steps=2, batch=4, side=96)


def test_two_crops_show_the_same_places_where_they_meet() -> None:
    images = torch.arange(128.0 * 128).view(1, 1, 128, 128).expand(2, 3, -1, -1)
    recipe = dataclasses.replace(RECIPE, jitter=0.0)
    for seed in range(20):
        torch.manual_seed(seed)
        first, second, (rows, columns) = toybox.two_crops(images, recipe, 8)
        assert first.shape == second.shape == (2, 3, 96, 96)
        said, wanted = first[:, 0, ::8, ::8, None], second[:, 0, ::8, ::8, None]
        own = said[:, max(0, rows) : 12 + min(0, rows), max(0, columns) : 12 + min(0, columns)]
        other = wanted[:, max(0, -rows) : 12 + min(0, -rows), max(0, -columns) : 12 + min(0, -columns)]
        assert torch.equal(own, other)


def test_assignments_use_all_prototypes_alike() -> None:
    cosines = torch.randn(2, 6, 6, 4, generator=torch.Generator().manual_seed(0))
    cosines[..., 0] += 2
    shares = toybox.balanced(cosines, 0.5)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, 6, 6))
    assert float(shares.mean(dim=(0, 1, 2)).max()) < 0.3 < float(cosines.mul(2).softmax(-1).mean(dim=(0, 1, 2)).max())


def test_loss_looks_at_what_both_crops_show() -> None:
    wanted = torch.zeros(1, 3, 3, 2)
    wanted[..., 0] = 1
    said = torch.full((1, 3, 3, 2), 0.0)
    said[:, 1:, :, 0] = 50.0
    assert float(toybox.matched_loss(said, wanted, (1, 0))) < 1e-6
    assert float(toybox.matched_loss(said, wanted, (0, 0))) == pytest.approx(np.log(2) / 3)


def test_training_is_repeatable_and_moves_the_teacher() -> None:
    pictures = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again = toybox.train(pictures, RECIPE), toybox.train(pictures, RECIPE)
    state = first.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    other = toybox.train(pictures, dataclasses.replace(RECIPE, steps=1)).state_dict()
    assert any(not torch.equal(state[name], other[name]) for name in state)


def test_shipped_weights_fill_the_tower_and_are_nowhere_else() -> None:
    tensors = read_foundation("toybox_vits8", "toybox")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in tensors.values())
    with pytest.raises(UserError, match=r"PRETRAINED is 'timm', where there is no toybox_vits8; use 'toybox'"):
        read_foundation("toybox_vits8", "timm")
    with pytest.raises(UserError, match=r"PRETRAINED is 'toybox', where there is no dino_vitb8; use 'timm'"):
        read_foundation("dino_vitb8", "toybox")


class OneBlock:
    """Stands in for ProxyCLIP: features that are the true labels'."""

    def __init__(self, features: torch.Tensor) -> None:
        self.proxy_tower = self
        self.given, self.beta, self.gamma = features, 1.2, 50.0

    def features(self, _images, _tokens):
        return self.given

    def before_last(self, images):
        return images

    def preprocess(self, _batch):
        return self

    tensor = None


def test_true_affinities_are_pure() -> None:
    labels = (
        torch.tensor([[0, 0, 5, 5], [0, 0, 5, 5], [IGNORE] * 4, [IGNORE] * 4])
        .repeat_interleave(4, 0)
        .repeat_interleave(4, 1)
    )
    entry = {"image": None, "sem_seg": labels}
    assert at_grid(labels, (2, 2)).tolist() == [[0, 5], [IGNORE, IGNORE]]
    purity = attention_purity(OneBlock(true_features(labels, (4, 4))), [entry])
    assert purity.inside == pytest.approx(100, abs=0.01) and purity.by_chance == pytest.approx(37.5)
    alike = OneBlock(torch.ones(1, 3, 4, 4))
    alike.beta = 0.5
    assert attention_purity(alike, [entry]).inside == pytest.approx(37.5)

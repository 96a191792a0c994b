"""The best class, found with classes innermost, is that of the whole volume."""

from __future__ import annotations

import pytest
import torch

from twostage.inference import best_class, blocks
from twostage.inference.resampling import Resampler


@pytest.mark.parametrize("classes", [1, 20, 60, 300])
@pytest.mark.parametrize("pixels", [5, 2048, 2600])
def test_of_products(classes: int, pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 128)
    generator = torch.Generator().manual_seed(classes)
    weights, values = torch.rand(classes, 7, generator=generator), torch.rand(7, pixels, generator=generator)
    wanted = (weights.double() @ values.double()).argmax(dim=0)
    labels = best_class.best_of_products(weights, values)
    assert labels.dtype == torch.int64 and float((labels == wanted).float().mean()) > 0.999


@pytest.mark.parametrize("classes", [1, 20, 300])
@pytest.mark.parametrize("output", [(31, 40), (8, 5)])
def test_of_resized_logits(classes: int, output: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 128)
    logits = torch.randn(classes, 6, 7, generator=torch.Generator().manual_seed(classes))
    resample = Resampler(grid=(6, 7), padded=(24, 28), image=(21, 28), output=output)
    labels = best_class.best_of_resized(resample, logits)
    assert labels.shape == output
    assert float((labels == resample(logits).argmax(dim=0)).float().mean()) > 0.999


@pytest.mark.parametrize("classes", [20, 70, 300])
def test_the_first_of_equals_wins(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 128)
    values = torch.ones(2, 3000)
    assert best_class.best_of_products(torch.ones(classes, 2), values).eq(0).all()
    # Nor does any of the classes win that are added to fill a block.
    assert best_class.best_of_products(torch.zeros(classes, 2), values).eq(0).all()
    resample = Resampler(grid=(2, 2), padded=(9, 9), image=(9, 9), output=(9, 9))
    assert best_class.best_of_resized(resample, torch.ones(classes, 2, 2)).eq(0).all()


def test_memory_is_a_block_of_classes_on_the_grids_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 5,000 classes no more than a block is held, as wide as the output and as high as the grid."""
    largest = 0
    real = Resampler.columns_last

    def watch(self: Resampler, maps: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        wide = real(self, maps)
        largest = max(largest, wide.numel())
        return wide

    monkeypatch.setattr(Resampler, "columns_last", watch)
    resample = Resampler(grid=(4, 4), padded=(64, 64), image=(64, 64), output=(64, 64))
    best_class.best_of_resized(resample, torch.randn(5000, 4, 4))
    assert largest == 4 * 64 * blocks.CLASS_BLOCK

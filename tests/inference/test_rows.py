"""Layers by rows give the numbers of the whole, and hold only some rows."""

from __future__ import annotations

import pytest
import torch
from timm.layers import GlobalResponseNormMlp, Mlp
from torch import nn

from twostage.clip.loading import load_clip
from twostage.inference import rows
from twostage.proposals.transformer import FeedForwardLayer

LAYERS = rows.RowLayers(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MANY_FLOATS", 0)
    monkeypatch.setattr(rows, "_ROWS", 8)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("layer", [rows.RowMlp(16, 64), FeedForwardLayer(width=16, hidden=64), LAYERS])
def test_numbers_are_those_of_the_whole(layer: nn.Module) -> None:
    x = torch.randn(2, 5, 7, 16)
    seen: list[int] = []
    linear = next(m for m in layer.modules() if isinstance(m, nn.Linear))
    linear.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[:-1].numel()))
    with torch.no_grad():
        pieces = layer(x)
    assert seen == [8] * 8 + [6]
    seen.clear()
    whole = layer(x)
    assert whole.requires_grad and seen == [70]
    torch.testing.assert_close(pieces, whole.detach(), rtol=1e-6, atol=1e-6)


def test_few_rows_stay_together() -> None:
    calls: list[torch.Size] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return x

    with torch.no_grad():
        rows.by_rows(run, torch.zeros(3, 4000, 1), hidden=100)
        rows.by_rows(run, torch.zeros(1, 1, 1), hidden=10**9)
        rows.by_rows(run, torch.zeros(3, 1000, 1), hidden=10**4)
    assert calls == [(3, 4000, 1), (1, 1, 1), (1024, 1), (1024, 1), (952, 1)]


def test_which_mlps_go_by_rows() -> None:
    model = nn.ModuleList([Mlp(4, 8), Mlp(4, 8, use_conv=True), GlobalResponseNormMlp(4, 8)])
    rows.run_mlps_by_rows(model)
    assert [type(m) for m in model] == [rows.RowMlp, Mlp, GlobalResponseNormMlp]
    clip, _ = load_clip("toybox-convnext", pretrained="")
    mlps = [m for m in clip.visual.modules() if isinstance(m, Mlp)]
    assert mlps and all(type(m) is rows.RowMlp for m in mlps)

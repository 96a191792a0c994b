"""The variants of cost aggregation inside CAT-Seg (inside SED: tests/systems/test_sed.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from twostage.config import load_config
from twostage.systems.building import build_model
from twostage.systems.one_stage.cost_aggregation import layer

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "opts",
    [
        ["CLASS_ATTENTION", "nearest", "MODEL.COST_AGGREGATION.NEAREST_CLASSES", "3"],
        ["FEED_FORWARD", "experts"],
        ["FEED_FORWARD", "shared_experts"],
        ["SPATIAL", "deformable"],
        ["IMAGE_CORRELATION", "replace"],
        ["IMAGE_CORRELATION", "append"],
    ],
    ids=["nearest", "experts", "shared_experts", "deformable", "correlation", "correlation_append"],
)
def test_variants_train_and_predict_in_blocks(opts, monkeypatch):
    """Gradients reach what the parent trains, and classes in blocks give the same as all at once."""
    torch.manual_seed(0)
    plain = [
        "MODEL.CLIP.PRETRAINED",
        "",
        "MODEL.CLIP.TEXT_CACHE",
        "",
        "MODEL.DEVICE",
        "cpu",
        "MODEL.CLIP.TEMPLATES",
        "single",
        "TEST.SEMANTIC_OUTPUT",
        "scores",
    ]
    cfg = load_config(
        str(ROOT / "configs" / "toybox" / "catseg.yaml"),
        [*plain, "TEST.SLIDING.ENABLED", "False", f"MODEL.COST_AGGREGATION.{opts[0]}", *opts[1:]],
    )
    model = build_model(cfg).train()
    entry = {
        "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
        "sem_seg": torch.randint(0, 9, (64, 64)),
        "vocabulary": [f"thing number {i}" for i in range(9)],
    }
    losses = model([entry])
    assert ("loss_balance" in losses) == (opts[0] == "FEED_FORWARD")
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in model.aggregator.named_parameters() if p.grad is None and ".experts." not in n]
    assert without == []
    model.eval()
    with torch.no_grad():
        whole = model([entry])[0]["sem_seg"]
        monkeypatch.setattr(layer, "_MAPS", 4)
        parts = model([entry])[0]["sem_seg"]
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)

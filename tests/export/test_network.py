"""Networks as files: what a file computes is what was traced, down to numbers that keep others finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from twostage.export.network import write_network
from twostage.export.session import METADATA, Session


class Guarded(nn.Module):
    """What systems keep finite, and what is nearly one or nearly nothing."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of `[N]`."""
        return (
            x / (x + 1e-8),
            (x + 1e-9).log(),
            x / (x - 1e-8),
            x.clamp(min=1e-12).rsqrt(),
            x * (1 + 5e-6),
            x / (1 - 5e-6),
            torch.cat([x, x + 1e-8]).log(),
        )


def test_small_numbers_are_kept(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason="needs the extra 'export'")
    x = torch.tensor([0.0, 1e-9, 1e-8, 3e-6, 1.0, 7.0])
    outputs = [f"y{index}" for index in range(len(Guarded()(x)))]
    write_network(
        Guarded(), (x,), tmp_path / "guarded.onnx", inputs=["x"], outputs=outputs, dynamic=[{0: "length"}],
        metadata={METADATA: "{}"},
    )  # fmt: skip
    session = Session(tmp_path / "guarded.onnx")
    for values in (x, x[1:4]):
        found = session({"x": values})
        assert found[4].numel() == len(values) and not torch.equal(found[4][-1:], values[-1:])
        for name, ours, theirs in zip(outputs, found, Guarded()(values), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, msg=lambda text, name=name: f"{name}: {text}")

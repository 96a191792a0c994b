"""Networks as files: what a file computes is what was traced, down to numbers that keep others finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.errors import UserError
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


class Smaller(nn.Module):
    """A picture `[1, 3, H, W]` made smaller, smoothed or not."""

    def __init__(self, *, antialias: bool) -> None:
        super().__init__()
        self.antialias = antialias

    def forward(self, x: Tensor) -> Tensor:
        """`[1, 3, 5, 7]`."""
        return F.interpolate(x, size=(5, 7), mode="bilinear", align_corners=False, antialias=self.antialias)


def test_openvino_refuses_what_it_computes_otherwise(tmp_path: Path) -> None:
    for module in ("onnx", "onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(module, reason="needs the extra 'export' and openvino")
    x = torch.rand((1, 3, 20, 24), generator=torch.Generator().manual_seed(0))
    for antialias in (False, True):
        path = tmp_path / f"{antialias}.onnx"
        write_network(
            Smaller(antialias=antialias), (x,), path, inputs=["x"], outputs=["y"], dynamic=[{2: "height", 3: "width"}],
            metadata={METADATA: "{}"},
        )  # fmt: skip
        (found,) = Session(path)({"x": x})
        torch.testing.assert_close(found, Smaller(antialias=antialias)(x), rtol=1e-5, atol=1e-5)
        if antialias:
            with pytest.raises(UserError, match=r"leaves out the smoothing .* --engine onnx"):
                Session(path, runtime="openvino")
        else:
            (found,) = Session(path, runtime="openvino")({"x": x})
            torch.testing.assert_close(found, Smaller(antialias=False)(x), rtol=1e-5, atol=1e-5)

"""A system as one traceable network, and its ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from twostage.clip.statistics import Pictures, PixelUnits
from twostage.errors import UserError
from twostage.export.form import Form
from twostage.export.half import halve_weights

# Kernels of one runtime and another differ by what this opset says alone.
_OPSET = 18


class TracedPictures(Pictures):
    """A normalised, padded batch of one picture, whose size may be a symbol."""

    def __init__(self, tensor: Tensor, size: tuple[int, int]) -> None:
        """
        Args:
            tensor: `[1, 3, H, W]`.
            size: (height, width) before padding.
        """
        self.tensor = tensor
        self.image_sizes = [size]
        self.pixels = []
        self.size_divisibility = 0

    def in_units(self, units: PixelUnits) -> Pictures:
        """Not there: padding has other values in other units. Raises UserError."""
        raise UserError("a part of this system looks at the picture in units of its own; such systems are not exported")


class Network(nn.Module):
    """`forward(image, *text)`: the outputs of `form` for one picture `[1, 3, H, W]`, normalised and padded."""

    def __init__(self, model: nn.Module, form: Form) -> None:
        super().__init__()
        self.model = model
        self.form = form

    def forward(self, image: Tensor, *text: Tensor) -> tuple[Tensor, ...]:
        """See the class; `text` in the order of `form.inputs`."""
        pictures = TracedPictures(image, (image.shape[2], image.shape[3]))
        return self.form.run(self.model, pictures, self.form.words(*text))


def write_network(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Sequence[Mapping[int, str]],
    metadata: Mapping[str, str],
    half: bool = False,
) -> None:
    """Trace `network` on `examples` and write it with its `metadata`.

    Args:
        dynamic: per input, the axes that may have another length than the example's, with their names.
        half: whether weights are stored in half precision.

    Raises:
        UserError: torch can't trace the network with these axes, or the extra "export" is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("exporting needs onnx and onnxscript: pip install 'twostage[export]'") from error
    free: Any = torch.export.Dim.DYNAMIC
    axes = tuple(dict.fromkeys(part, free) for part in dynamic)
    shapes = (axes[0], axes[1:]) if len(axes) > 1 else axes
    loud = logging.getLogger("onnxscript").level
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        # Gradients stay on: without them the class axis would be worked on in blocks whose number is fixed.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, examples, dynamic_shapes=shapes, strict=False)
            written = torch.onnx.export(
                program, (), input_names=list(inputs), output_names=list(outputs), opset_version=_OPSET, dynamo=True,
                verbose=False,
            )  # fmt: skip
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(
            f"torch could not trace this system ({str(error).strip().splitlines()[0][:200]}); try --size HEIGHTxWIDTH"
        ) from error
    finally:
        logging.getLogger("onnxscript").setLevel(loud)
    assert written is not None, "the exporter returns a program where it is given no file"
    proto = written.model_proto
    if half:
        halve_weights(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save_model(proto, path)

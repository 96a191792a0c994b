"""A system as one traceable network, and its ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twostage.clip.statistics import Pictures, PixelUnits
from twostage.errors import UserError
from twostage.export.form import Form
from twostage.export.half import halve_weights
from twostage.segmenter import OpenVocabularySegmenter

# Kernels of one runtime and another differ by what this opset says alone.
_OPSET = 18
# Bytes of weights; a protobuf holds 2 GiB, of which the graph and the metadata need some.
_LARGEST = 2**31 - 2**25


class TracedPictures(Pictures):
    """A normalised, padded batch of one picture, whose size may be a symbol."""

    def __init__(self, image: Tensor, *, units: PixelUnits | None, pad_to: int) -> None:
        """
        Args:
            image: `[1, 3, H, W]`.
            units: of `image`, whose pixels are found from it by them; None for one that is padded, whose pixels nobody knows.
            pad_to: zeros are added at the right and the bottom up to a multiple of this.
        """
        height, width = image.shape[2], image.shape[3]
        self.tensor = image if pad_to == 1 else F.pad(image, (0, -width % pad_to, 0, -height % pad_to))
        self.image_sizes = [(height, width)]
        self.pixels = [] if units is None else [image[0] * units.std + units.mean]
        self.size_divisibility = pad_to

    def in_units(self, units: PixelUnits) -> Pictures:
        """Not there: padding has other values in other units. Raises UserError."""
        raise UserError("a part of this system looks at the picture in units of its own; such systems are not exported")


class Network(nn.Module):
    """`forward(image, *text)`: the outputs of `form` for one picture `[1, 3, H, W]`, normalised, and padded where the
    system's padding is read from the outside."""

    def __init__(self, model: OpenVocabularySegmenter[Any, Any], form: Form, *, padded: bool) -> None:
        """
        Args:
            padded: whether pictures come with their padding.
        """
        super().__init__()
        self.model = model
        self.form = form
        self.padded = padded

    def forward(self, image: Tensor, *text: Tensor) -> tuple[Tensor, ...]:
        """See the class; `text` in the order of `form.inputs`."""
        pad_to = self.model.size_divisibility if self.form.pads_inside else 1
        pictures = TracedPictures(image, units=None if self.padded else self.model.units, pad_to=pad_to)
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
        UserError: torch can't trace the network with these axes, its weights are too large for a file, or the extra "export"
            is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("exporting needs onnx and onnxscript: pip install 'twostage[export]'") from error
    _check_size(network, half)
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
                optimize=False, verbose=False,
            )  # fmt: skip
            assert written is not None, "the exporter returns a program where it is given no file"
            _simplify(written.model)
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise UserError(f"torch could not trace this system ({_reason(error)}); try --size HEIGHTxWIDTH") from error
    finally:
        logging.getLogger("onnxscript").setLevel(loud)
    proto = written.model_proto
    if half:
        halve_weights(proto)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save_model(proto, path)


def _check_size(network: nn.Module, half: bool) -> None:
    """Before anything is traced. Raises UserError where the weights are more than a file holds."""
    size = sum(weight.numel() for weight in network.parameters()) * (2 if half else 4)
    if size > _LARGEST:
        cure = "" if half else "; try --precision float16, which halves them"
        raise UserError(f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2{cure}")


def _simplify(model: Any) -> None:
    """Functions written out, constants folded, what is there twice or read by nobody dropped; in place.

    Not the exporter's own optimisation: its rewriter takes a number of up to 1e-8 for zero, and `x + 1e-8`, which keeps
    divisors and logarithms finite, for `x`. Runtimes fuse operations when they load a file.
    """
    from onnx_ir import passes
    from onnx_ir.passes import common
    from onnxscript import optimizer

    optimizer.inline(model)
    optimizer.fold_constants(model)
    passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    )(model)


def _reason(error: BaseException) -> str:
    """The first line of what an error goes back to."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

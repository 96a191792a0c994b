"""Weights of an ONNX network in half precision: half the file; a runtime makes them float32 again when it loads it.

Computing is as before. Weights that were half-precision numbers to begin with, as OpenAI's CLIPs are, stay what they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the float32 matrices and kernels of `model` as float16, in place; vectors (biases, norms) stay, as do tensors with
    numbers that float16 does not reach."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != TensorProto.FLOAT or len(weight.dims) < 2:
            continue
        with np.errstate(over="ignore"):
            half = numpy_helper.to_array(weight).astype(np.float16)
        if np.isfinite(half).all():
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    # In front of all that reads them.
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])

"""An ONNX file that `twostage export` wrote, in a runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from twostage.errors import UserError, near_names

# Key of the metadata under which everything stands, as JSON.
METADATA = "twostage"
RUNTIMES = ("onnxruntime", "openvino")


class _Backend(Protocol):
    def __call__(self, arrays: dict[str, np.ndarray]) -> Sequence[np.ndarray]: ...


class Session:
    """Runs a file.

    Attributes:
        about: the metadata.
        inputs: names of the inputs that the network reads.
    """

    def __init__(self, path: Path, *, runtime: str = "onnxruntime", threads: int = 0) -> None:
        """
        Args:
            runtime: one of `RUNTIMES`.
            threads: that one run uses; 0: as many as torch uses.

        Raises:
            UserError: no such file, one that `twostage export` has not written, or a runtime that is not installed.
        """
        if runtime not in RUNTIMES:
            raise UserError(f"there is no runtime {runtime!r}{near_names(runtime, RUNTIMES)}; there are: {RUNTIMES}")
        if not path.is_file():
            raise UserError(f"'{path}' does not exist; `twostage export` writes such files")
        ort = _imported("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            self.about: dict[str, Any] = dict(json.loads(session.get_modelmeta().custom_metadata_map[METADATA]))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"'{path}' is no file of `twostage export`; export the system again") from error
        except Exception as error:  # onnxruntime has a type for every reason, none of them public
            raise UserError(f"'{path}' can't be read: {str(error).splitlines()[0][:200]}; export it again") from error
        self._path = path
        self.inputs = frozenset(entry.name for entry in session.get_inputs())
        self._run: _Backend = lambda arrays: session.run(None, arrays)
        if runtime == "openvino":
            self._run = _openvino(path, options.intra_op_num_threads)

    def require(self, entries: Sequence[str]) -> None:
        """Raises UserError where an entry of the metadata is missing."""
        missing = [name for name in entries if name not in self.about]
        if missing:
            raise UserError(f"'{self._path}' lacks {', '.join(missing)} in its metadata; export the system again")

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The outputs in the file's order; inputs that the network does not read are left out."""
        arrays = {name: value.contiguous().numpy() for name, value in tensors.items() if name in self.inputs}
        return tuple(torch.from_numpy(np.array(array)) for array in self._run(arrays))


def is_exported(path: Path) -> bool:
    """Whether `twostage export` has written a file."""
    onnx = _imported("onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf has errors of its own; whatever it is, it is not ours
        return False
    return any(entry.key == METADATA for entry in model.metadata_props)


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(f"this needs {name}: pip install 'twostage[export]'") from error


def _openvino(path: Path, threads: int) -> _Backend:
    """The same file in OpenVINO, on the CPU in single precision. Raises UserError where it would compute something else."""
    try:
        import openvino
    except ImportError as error:
        raise UserError("--runtime openvino needs openvino: pip install openvino") from error
    core = openvino.Core()
    model = core.read_model(path)
    if any(_smooths(operation) for operation in model.get_ops()):
        raise UserError(
            f"OpenVINO leaves out the smoothing by which '{path}' makes pictures smaller, and would give other labels; run it "
            "by --engine onnx"
        )
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", settings)

    def run(arrays: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        found = compiled(arrays)
        return [found[output] for output in compiled.outputs]

    return run


def _smooths(operation: Any) -> bool:
    """Whether an operation is a resize with antialiasing, whose attribute OpenVINO (2026.4) reads and does not heed."""
    return operation.get_type_name() == "Interpolate" and bool(operation.get_attributes().get("antialias"))

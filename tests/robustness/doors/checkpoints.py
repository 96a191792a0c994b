"""Checkpoints: cut off at every percent, damaged, of other networks, with code in them."""

from __future__ import annotations

import functools
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from robustness.damage import cut, damage
from robustness.trial import CANARY, Door, Trial, require
from twostage.checkpoint.checkpointer import load_weights
from twostage.checkpoint.safe_loading import load_checkpoint_file
from twostage.config import load_config
from twostage.systems.building import build_model

_ROOT = Path(__file__).parents[3]


@functools.cache
def model() -> nn.Module:
    """SAN at toy size."""
    torch.manual_seed(0)
    return build_model(load_config(str(_ROOT / "configs/toybox/san.yaml"), ["MODEL.DEVICE", "cpu"]))


@functools.cache
def weights() -> dict[str, Tensor]:
    """Its tensors, copied."""
    return {name: value.detach().clone() for name, value in model().state_dict().items()}


class _Runs:
    """Pickled, it is a call."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self._target}",)


def _torch(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _load(content: bytes, suffix: str, expected: dict[str, Tensor] | None) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        path = folder / f"weights{suffix}"
        path.write_bytes(content)
        found = load_checkpoint_file(path)
        load_weights(model(), found, str(path))
        state = model().state_dict()
        wanted = expected if expected is not None else weights()
        # Bit for bit, so that a NaN is one.
        same = all(torch.equal(state[n].view(torch.uint8), v.view(torch.uint8)) for n, v in wanted.items() if v.ndim)
        require(same, "other weights than were saved")

    return action


def _damaged(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    pth, safe = _torch({"model": weights(), "iteration": 3}), save_safetensors(weights())
    old = _torch(weights(), _use_new_zipfile_serialization=False)
    per_cent = max(1, 200 // count)
    for share in range(0, 100, per_cent):
        yield Trial(f"pth cut at {share} %", _load(cut(pth, share / 100), ".pth", None))
        yield Trial(f"safetensors cut at {share} %", _load(cut(safe, share / 100), ".safetensors", None))
    for index in range(max(4, count // 2)):
        how, content = damage(rng, pth)
        yield Trial(f"pth, {how} #{index}", _load(content, ".pth", None))
        if index % 3 == 0:
            # Near the front, where the names and shapes are.
            head = min(len(safe), 20000)
            how, front = damage(rng, safe[:head])
            content = front + (safe[head:] if how != "cut" else b"")
            yield Trial(f"safetensors, {how} #{index}", _load(content, ".safetensors", _of_bytes(content)))
        if index % 4 == 0:
            yield Trial(f"old pth cut #{index}", _load(cut(old, float(rng.random())), ".pth", None))


def _of_bytes(content: bytes) -> dict[str, Tensor] | None:
    """What the safetensors format, which has no check sums, holds in these bytes."""
    try:
        return dict(load_safetensors(content))
    except Exception:
        return None


def _others(rng: np.random.Generator, target: str) -> Iterator[tuple[str, bytes, str]]:
    base = weights()
    some = list(base)
    lost = {name: value for name, value in base.items() if name != some[3]}
    shaped = base | {some[5]: torch.zeros(*base[some[5]].shape, 2)}
    yield "a tensor missing", _torch({"model": lost}), ".pth"
    yield "a tensor too many", _torch({"model": base | {"x": torch.zeros(1)}}), ".pth"
    yield "another shape", _torch({"model": shaped}), ".pth"
    yield "another system's name", _torch({"model": base, "meta_architecture": "CATSeg"}), ".pth"
    yield "unknown system's name", _torch({"model": base, "meta_architecture": 3}), ".pth"
    yield "a list as system's name", _torch({"model": base, "meta_architecture": ["SAN"]}), ".pth"
    yield "complex weights", _torch({n: v.to(torch.complex64) for n, v in base.items()}), ".pth"
    yield "integers as weights", _torch({n: v.to(torch.int8) for n, v in base.items()}), ".pth"
    yield (
        "NaN weights",
        _torch({n: torch.full_like(v, float("nan")) if v.is_floating_point() else v for n, v in base.items()}),
        ".pth",
    )
    yield "sparse weights", _torch({n: v.to_sparse() for n, v in base.items()}), ".pth"
    yield "meta weights", _torch({n: v.to("meta") for n, v in base.items()}), ".pth"
    yield "numbers as names", _torch(dict(enumerate(base.values()))), ".pth"
    yield "numbers as names in model", _torch({"model": dict(enumerate(base.values()))}), ".pth"
    yield "mixed names", _torch({**base, 3: torch.zeros(1)}), ".pth"
    yield "empty dictionary", _torch({}), ".pth"
    yield "a list", _torch([1, 2]), ".pth"
    yield "a tensor", _torch(torch.zeros(3)), ".pth"
    yield "none", _torch(None), ".pth"
    yield "nested model", _torch({"model": {"model": base}}), ".pth"
    yield "model is a tensor", _torch({"model": torch.zeros(2)}), ".pth"
    yield "numpy arrays", _torch({n: v.numpy() for n, v in base.items()}), ".pth"
    yield "code", _torch({"model": base, "x": _Runs(target)}), ".pth"
    yield "code, old format", _torch({"model": base, "x": _Runs(target)}, _use_new_zipfile_serialization=False), ".pth"
    yield "pickled code", pickle.dumps(_Runs(target)), ".pth"
    yield "pickled code as pkl", pickle.dumps(_Runs(target)), ".pkl"
    yield "pickled code as safetensors", pickle.dumps(_Runs(target)), ".safetensors"
    yield "a module", _torch(nn.Linear(2, 2)), ".pth"
    yield "pth as safetensors", _torch({"model": base}), ".safetensors"
    yield "safetensors as pth", save_safetensors(base), ".pth"
    yield "header of a petabyte", (2**50).to_bytes(8, "little") + b"{}", ".safetensors"
    yield "safetensors without tensors", save_safetensors({}), ".safetensors"
    yield "text", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ".pth"
    yield "web page", b"<!DOCTYPE html><html></html>", ".pth"
    yield "picture", b"\x89PNG\r\n\x1a\n" + rng.bytes(100), ".pth"
    yield "random bytes", rng.bytes(5000), ".pth"
    yield "random bytes as safetensors", rng.bytes(5000), ".safetensors"
    yield "deep pickle", b"\x80\x02" + b"]" * 20000 + b"a" * 19999 + b".", ".pth"
    yield "long pickle", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", ".pth"
    for name, files in _archives(target).items():
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in files.items():
                archive.writestr(file, content)
        yield name, stream.getvalue(), ".pth"


def _archives(target: str) -> dict[str, dict[str, bytes]]:
    code = pickle.dumps(_Runs(target))
    # A tensor of a petabyte, in a pickle as TorchScript writes them.
    huge = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu"
        b"\x8a\x07\0\0\0\0\0\0\x02tQK\0(\x8a\x07\0\0\0\0\0\0\x02tK\x01\x85\x89ccollections\nOrderedDict\n)RtR."
    )
    return {
        "empty archive": {},
        "archive of nonsense": {"a.txt": b"x", "b/c": b"y"},
        "bomb of zeros": {"archive/data.pkl": bytes(200_000_000), "archive/version": b"3\n"},
        "bomb in TorchScript": {"a/constants.pkl": b"", "a/data.pkl": bytes(200_000_000)},
        "code in an archive": {"archive/data.pkl": code, "archive/version": b"3\n"},
        "code in TorchScript": {"a/constants.pkl": b"", "a/data.pkl": code},
        "TorchScript without data": {"a/constants.pkl": b""},
        "TorchScript with a number": {"a/constants.pkl": b"", "a/data.pkl": pickle.dumps(3)},
        "TorchScript with a list": {"a/constants.pkl": b"", "a/data.pkl": pickle.dumps([1])},
        "TorchScript of nothing": {"a/constants.pkl": b"", "a/data.pkl": b""},
        "TorchScript, random pickle": {"a/constants.pkl": b"", "a/data.pkl": np.random.default_rng(0).bytes(300)},
        "TorchScript, stack underflow": {"a/constants.pkl": b"", "a/data.pkl": b"\x80\x02R."},
        "TorchScript, call of a storage": {"a/constants.pkl": b"", "a/data.pkl": b"\x80\x02ctorch\nFloatStorage\n)R."},
        "TorchScript, wrong storage": {"a/constants.pkl": b"", "a/data.pkl": b"\x80\x02K\x01Q."},
        "TorchScript, huge tensor": {"a/constants.pkl": b"", "a/data.pkl": huge, "a/data/0": bytes(8)},
        "huge tensor": {"archive/data.pkl": huge, "archive/data/0": bytes(8), "archive/version": b"3\n"},
    }


def _missing(folder: Path) -> None:
    load_checkpoint_file(folder / "nowhere.pth")


def _is_folder(folder: Path) -> None:
    load_checkpoint_file(folder)


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Those of other networks and with code first."""
    model()
    yield Trial("missing", _missing)
    yield Trial("a folder", _is_folder)
    others = list(_others(rng, f"$PWD/{CANARY}"))
    fine = ("safetensors as pth",)
    chosen = rng.permutation(len(others))[: max(8, count // 3)]
    for index in chosen:
        name, content, suffix = others[index]
        yield Trial(name, _in_folder(content, suffix, allowed=name in fine))
    yield from _damaged(rng, max(4, count - len(chosen)))


def _in_folder(content: bytes, suffix: str, *, allowed: bool) -> Callable[[Path], None]:
    """None of these can be the right weights, but for a file whose name alone is wrong."""

    def action(folder: Path) -> None:
        import os

        before = Path.cwd()
        os.chdir(folder.parent)  # where the canary would sit
        try:
            _load(content, suffix, None)(folder)
        finally:
            os.chdir(before)

    return action


DOOR = Door("checkpoints", trials)

"""What is disturbed: training, evaluation, preparation, demo, text embeddings; each with the result that has to come out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from robustness.forked import ROOT

_CLASSES = ("cat", "dog", "grass")
_SIZE = (96, 128)


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that writes into a folder of its own.

    Attributes:
        tool: name under tools/.
        args: of an output folder.
        resume: further arguments with which a stopped run goes on.
        result: what has to be the same, of an output folder.
        megabytes: about what it writes at most, for the small disk.
        env: of an output folder.
    """

    name: str
    tool: str
    args: Callable[[Path], list[str]]
    result: Callable[[Path], Any]
    megabytes: float
    resume: tuple[str, ...] = ()
    env: Callable[[Path], dict[str, str]] = lambda _folder: {}


def jobs(data: Path) -> list[Job]:
    """All of them, on small data written to `data`."""
    _dataset(data / "set", 6)
    _downloads(data / "downloads")
    words = "; ".join([*_CLASSES, *(f"thing number {i}" for i in range(120))])
    san = ["--config-file", str(ROOT / "configs/toybox/san.yaml")]
    quick = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEMPLATES", "single", "INPUT.MIN_SIZE_TEST", "64", "SEED", "1"]
    folders = ["DATASETS.FOLDERS", f"('set={data / 'set'}',)"]
    training = [
        *san, *quick, *folders, "DATASETS.TRAIN", "('set',)", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "5",
        "SOLVER.IMS_PER_BATCH", "1", "SOLVER.CHECKPOINT_PERIOD", "1", "INPUT.CROP.ENABLED", "False", "INPUT.MIN_SIZE_TRAIN",
        "(64,)", "MODEL.CLIP.TEXT_CACHE", "",
    ]  # fmt: skip
    pictures = str(data / "set" / "images")
    return [
        Job("training", "train_net", lambda out: [*training, "OUTPUT_DIR", str(out)], _weights, 40, ("--resume",)),
        Job(
            "evaluation",
            "evaluate",
            lambda out: [*san, "--datasets", "set", *quick, *folders, "MODEL.CLIP.TEXT_CACHE", "", "OUTPUT_DIR", str(out)],
            _figures,
            0.1,
            ("--resume",),
        ),
        Job(
            "prepare",
            "prepare_datasets",
            lambda out: ["prepare", "ade20k_150", "--source", str(data / "downloads"), "--workers", "2"],
            _files,
            0.5,
            env=lambda out: {"DETECTRON2_DATASETS": str(out)},
        ),
        Job(
            "demo",
            "demo",
            lambda out: [
                *san, "--input", pictures, "--vocabulary", "cat, dog", "--output", str(out), *quick,
                "MODEL.CLIP.TEXT_CACHE", "",
            ],
            _files,
            0.3,
        ),
        Job(
            "text embedding",
            "demo",
            lambda out: [
                *san, "--input", f"{pictures}/0.jpg", "--vocabulary", words, "--output", str(out / "pictures"), *quick,
                "MODEL.CLIP.TEXT_CACHE", str(out / "cache"),
            ],
            lambda out: (_files(out / "pictures"), _tensors(out / "cache")),
            0.6,
        ),
    ]  # fmt: skip


def _dataset(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    blocks = (_SIZE[0] // 16, _SIZE[1] // 16)
    for index in range(count):
        pixels = np.kron(rng.integers(0, 256, (*blocks, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8))
        labels = np.kron(rng.integers(0, len(_CLASSES), blocks, dtype=np.uint8), np.ones((16, 16), np.uint8))
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
        Image.fromarray(labels).save(folder / "labels" / f"{index}.png")
    (folder / "classes.txt").write_text("\n".join(_CLASSES))


def _downloads(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "data" / "preparation"))
    import miniatures

    miniatures.ade20k_150(folder, count=40)


def _weights(folder: Path) -> str:
    """Of all tensors of the last checkpoint, the optimizer's as well."""
    content = torch.load(folder / "model_final.pth", weights_only=True)
    digest = hashlib.sha256()
    _add(digest, {key: content[key] for key in ("model", "trainer", "iteration")})
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, list | tuple):
        for entry in value:
            _add(digest, entry)
    else:
        digest.update(repr(value).encode())


def _figures(folder: Path) -> Any:
    record = json.loads((folder / "inference" / "results-set.json").read_text())
    return record["results"], [image["miou"] for image in record["images"]]


def _files(folder: Path) -> dict[str, str]:
    """Hashes of all files but hidden ones."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _tensors(folder: Path) -> dict[str, str]:
    """Hashes of the cached files."""
    return {name: value for name, value in _files(folder).items() if name.endswith(".safetensors")}

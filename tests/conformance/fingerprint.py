"""Hashes of what every toybox system computes, to prove that a refactor leaves it bit-identical; see `tools/fingerprint.py`.

Each system gets weights that depend on the names and shapes of its parameters alone (its CLIP keeps the toybox weights), reads
one scene of toybox, and, where it is trained, computes the losses and gradients of one batch. Hashed are the names of its
tensors, scores, label map, panoptic segments, what `forward` returns, the batch, losses and gradients. Another processor,
another number of threads or another version of torch may round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conformance.seeded import seeded_tensor
from twostage.api import Segmenter, build_from_config, find_config
from twostage.config import load_config
from twostage.data.loaders import build_test_loader, build_train_loader
from twostage.errors import UserError
from twostage.files import write_text
from twostage.predictions.masks import MaskPrediction
from twostage.segmenter import OpenVocabularySegmenter

# Two are classes of toybox, one holds synonyms.
WORDS = ("striped blue star", "grass", "red dotted circle, disc", "sky", "green ring")
THINGS = WORDS[::2]
OVERRIDES = ("MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "SEED", "3")

# Name of a system's config -> what is hashed -> hash.
Prints = dict[str, dict[str, str]]


def run_from_arguments(args: argparse.Namespace) -> None:
    """Fingerprint the configs and write or compare the result.

    Raises:
        UserError: an unknown config, or a file to compare with that can't be read or lacks one of them.
    """
    known = read(args.compare) if args.compare else {}
    names = (
        args.configs or sorted(known) or sorted(p.stem for p in Path(find_config("toybox/san")).parent.glob("*.yaml"))
    )
    missing = [name for name in names if args.compare and name not in known]
    if missing:
        raise UserError(f"'{args.compare}' has no fingerprint of {missing[0]!r}; it has: {', '.join(sorted(known))}")
    torch.set_num_threads(1)
    prints: Prints = {}
    for name in names:
        prints[name] = fingerprint(name)
        print(f"{name}: {len(prints[name])} hashes", flush=True)
    if args.output:
        write_text(args.output, json.dumps(prints, indent=1, sort_keys=True) + "\n")
    if args.compare:
        differences = compare(known, prints)
        print("\n".join([*differences, f"{len(names) - len(differences)} of {len(names)} systems are bit-identical"]))
        if differences:
            sys.exit(1)


def read(path: str | Path) -> Prints:
    """Fingerprints that a run has written.

    Raises:
        UserError: the file can't be read or holds something else.
    """
    try:
        return {name: dict(hashes) for name, hashes in json.loads(Path(path).read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"'{path}' is no file of fingerprints ({error}); write one by --output") from error


def compare(before: Prints, after: Prints) -> list[str]:
    """One line per system of `after` with other hashes than `before`; a hash that one side lacks differs."""
    lines = []
    for name, hashes in after.items():
        different = sorted(key for key in {*before[name], *hashes} if before[name].get(key) != hashes.get(key))
        if different:
            lines.append(f"{name}: {', '.join(different)} differ")
    return lines


def fingerprint(name: str) -> dict[str, str]:
    """Hashes of the system of `configs/toybox/<name>.yaml`."""
    cfg = load_config(find_config(f"toybox/{name}"), OVERRIDES)
    torch.manual_seed(0)
    model = build_from_config(cfg)
    hashes = {"names": digest(sorted(model.state_dict()))}
    seed_weights(model)
    (entry,) = next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    result = Segmenter(model, cfg)(entry["image"], WORDS)
    hashes |= {"scores": digest(result.scores()), "labels": digest(result.labels)}
    if isinstance(result.prediction, MaskPrediction):
        panoptic = result.panoptic(THINGS, score_threshold=0.05)
        hashes["panoptic"] = digest([panoptic.ids, list(panoptic.segments)])
    with torch.inference_mode():
        hashes["forward"] = digest(model([{**entry, "vocabulary": WORDS}]))
    # Systems that are not trained leave the base's method as it is, and with masks from elsewhere there is nothing to train.
    if type(model).losses is not OpenVocabularySegmenter.losses and cfg.MODEL.MASKS.SOURCE == "own":
        hashes |= training(model, next(iter(build_train_loader(cfg))))
    return hashes


def training(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, str]:
    """Hashes of one step on `batch`: the data, the losses, the gradients and the names of what has one."""
    model.train()
    torch.manual_seed(1)
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = {name: value.grad for name, value in sorted(model.named_parameters()) if value.grad is not None}
    return {
        "batch": digest([entry["image"] for entry in batch]),
        "losses": digest(losses),
        "gradients": digest(list(gradients.values())),
        "trained": digest(list(gradients)),
    }


def seed_weights(model: nn.Module) -> None:
    """Give each parameter outside CLIP values that depend on its name and shape alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("clip."):
                parameter.copy_(seeded_tensor(name, parameter.shape))


def digest(value: Any) -> str:
    """sha256 (its first 16 hex digits) of tensors, arrays, numbers and words in lists and mappings: values, types, shapes."""
    hashed = hashlib.sha256()
    for part in _parts(value):
        hashed.update(part)
    return hashed.hexdigest()[:16]


def _parts(value: Any) -> Iterable[bytes]:
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield str(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} of".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes()
    else:
        yield repr(value).encode()

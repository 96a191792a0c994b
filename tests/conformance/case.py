"""A reference case: a seeded run of a published system, stored as a json and sampled arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conformance.comparison import ARGMAX_TOLERANCE, RELATIVE_TOLERANCE, Comparison
from twostage.errors import UserError

# Fields that tell how a case came about and are no part of it: nothing can be compared with them.
_TOLD = re.compile(
    r"system|variant|image_feed|.*_note|note|notes|why|what|case|kind|arrays|array_notes|batch|batching|.*versions?|torch"
    r"|timm|dtype|device|precision|dataset|sampling|storage|stats|.*determini.*|.*rerun.*|run_twice_identical|sha256_of_arrays|float64_vs_.*"
    r"|argmax_(classes|stride|num_classes|top2.*|fraction.*)|top1_top2.*|median_.*|cosine_range|selection_stats|all_finite"
    r"|text_truncated|truncated_text_.*|mask_threshold_margins|max_seconds|.*_seconds|checked.*"
)

# A case has one of these.
_MARKS = frozenset({"weight_seed", "seed", "system", "case", "arrays", "v1", "v2"})


class Fields(dict[str, Any]):
    """A json object that remembers which of its fields were read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)


class Case:
    """A reference case: `meta` is its json; `arrays` what the npz holds (empty where there is none).

    It keeps account of what was read and compared, so that `left_out` can name the rest.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.path = path
        self.meta = Fields(meta)
        self.arrays = Fields(arrays)
        self.notes: list[str] = []

    @classmethod
    def read(cls, path: str | Path) -> Case:
        """Read `<path>.json` and the npz of the same name. A case that does not name its system is of its folder's.

        Raises:
            UserError: missing, or not a reference case.
        """
        path = Path(path)
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"reference case '{path}' can't be read: {error}") from error
        if not isinstance(meta, dict) or not _MARKS.intersection(meta):
            raise UserError(f"'{path}' is not a reference case (a json object with what was run)")
        meta.setdefault("system", path.resolve().parent.name)
        npz = path.with_suffix(".npz")
        if meta.get("arrays") and not npz.is_file():
            raise UserError(f"reference case '{path}' lists arrays, but their file '{npz.name}' is missing beside it")
        try:
            arrays = dict(np.load(npz)) if npz.is_file() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"the arrays of reference case '{path}' can't be read: {error}") from error
        return cls(path, meta, arrays)

    def again(self) -> Case:
        """The same case with nothing read yet."""
        return Case(self.path, dict(self.meta), dict(self.arrays))

    @property
    def names(self) -> list[str]:
        """Names of the stored arrays, but for changed weights, which are inputs."""
        names = {re.sub(r"__(idx|val|shape)$", "", name) for name in self.arrays}
        return sorted(name for name in names if not name.startswith("tweak__"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole array."""
        # Looking at the shape alone is not reading the array.
        if name in self.arrays:
            return tuple(dict.__getitem__(self.arrays, name).shape)
        return tuple(int(n) for n in dict.__getitem__(self.arrays, f"{name}__shape"))

    def beside(self, name: str) -> Any:
        """The json file `name` beside the case, None where there is none."""
        path = self.path.parent / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def skip(self, what: str) -> list[Comparison]:
        """Say that the case leaves something out that others have; no comparison comes of it."""
        self.notes.append(f"skipped: {what}")
        return []

    def told(self, *fields: str) -> None:
        """Fields that say in words what is done here anyhow, or what follows from other fields."""
        self.meta.seen.update(fields)

    def left_out(self) -> list[str]:
        """Sentences about fields and arrays that were neither read nor compared."""
        fields = [key for key in self.meta if key not in self.meta.seen and not _TOLD.fullmatch(key)]
        arrays = [name for name in self.names if not {name, f"{name}__val"} & self.arrays.seen]
        kinds = {"fields": fields, "arrays": arrays}
        return [*self.notes, *(f"not compared: {kind} {', '.join(names)}" for kind, names in kinds.items() if names)]

    def compare_all(self, ours: Mapping[str, Any], *, tolerance: float = RELATIVE_TOLERANCE) -> list[Comparison]:
        """Every stored array of which `ours` has one of the same name; `left_out` names the others."""
        return [
            self.compare(name, ours[name], max(tolerance, self.own_spread(name)))
            for name in self.names
            if ours.get(name) is not None
        ]

    def own_spread(self, name: str) -> float:
        """How far the authors' own second run, on two threads, had an array that the case names for it; else 0.

        Such arrays hang on a mask's threshold; a third way to round may lie as far on the other side.
        """
        if not re.search(rf"\b{name}\b", self.meta.get("two_threads_note", "")):
            return 0.0
        return 2 * float(self.meta["two_threads_max_rel_diff"])

    def compare(
        self,
        name: str,
        ours: Tensor | np.ndarray,
        tolerance: float = RELATIVE_TOLERANCE,
        *,
        scale: float | None = None,
    ) -> Comparison:
        """Our whole array against the stored one (whole or sampled).

        Args:
            scale: what differences are relative to; None for the greatest stored value.
        """
        ours = torch.as_tensor(ours).detach().cpu().numpy()
        whole, shape = name in self.arrays, self.shape(name)
        self.arrays.seen.add(name)
        if tuple(ours.shape) != shape:
            nothing, note = float("nan"), f"our shape is {tuple(ours.shape)}"
            return Comparison(name=name, shape=shape, difference=nothing, relative=nothing, passed=False, note=note)
        wanted = self.arrays[name] if whole else self.arrays[f"{name}__val"]
        got = ours if whole else ours.reshape(-1)[self.arrays[f"{name}__idx"]]
        if name.startswith(("argmax", "match", "label_map")):
            return _compare_exactly(name, shape, got, wanted)
        difference = float(np.abs(got.astype(np.float64) - wanted).max()) if wanted.size else 0.0
        if scale is None:
            scale = float(np.abs(wanted).max()) if wanted.size else 1.0
        relative = difference / scale if scale else difference
        # Written so that NaN fails.
        passed = relative <= tolerance
        return Comparison(name=name, shape=shape, difference=difference, relative=relative, passed=passed)


def _compare_exactly(name: str, shape: tuple[int, ...], got: np.ndarray, wanted: np.ndarray) -> Comparison:
    equal = float((got == wanted).mean()) if wanted.size else 1.0
    needed = ARGMAX_TOLERANCE if name.startswith("argmax") else 1.0
    return Comparison(
        name=name,
        shape=shape,
        difference=float((got != wanted).sum()),
        relative=1 - equal,
        passed=equal >= needed,
        note=f"{100 * equal:.3f} % equal",
    )


def names_like(case: Case, prefixes: Iterable[str]) -> list[str]:
    """Stored arrays whose names begin with one of `prefixes`."""
    return [name for name in case.names if name.startswith(tuple(prefixes))]

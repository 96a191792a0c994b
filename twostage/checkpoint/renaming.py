"""Official checkpoint names <-> ours: one declarative table per system, applied both ways, with every tensor accounted for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from twostage.checkpoint.signature import Signature
from twostage.errors import UserError

# Tensors under our names that a file of this path leaves out.
Supply = Callable[[str], Mapping[str, Tensor]]


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclasses.dataclass(frozen=True)
class Rename:
    """Names that start with `official` start with `ours` instead; `{i}` in both stands for a number.

    Attributes:
        first: added to the official number to get ours.
        last: highest number on our side that the rule covers, None for any.
        value: (official tensor to ours, ours to official) where the same numbers are stored in another shape.

    >>> Rename("head.blocks.{i}.", "blocks.{i}.", first=9).to_ours("head.blocks.1.weight")
    'blocks.10.weight'
    """

    official: str
    ours: str
    first: int = 0
    last: int | None = None
    value: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = (_same, _same)

    def to_ours(self, name: str) -> str | None:
        """Our name for an official one, None where the rule does not apply."""
        return _swap(name, self.official, self.ours, self.first, 0, None)

    def to_official(self, name: str) -> str | None:
        """The official name for one of ours, None where the rule does not apply."""
        return _swap(name, self.ours, self.official, -self.first, self.first, self.last)


def _swap(name: str, source: str, target: str, shift: int, low: int, high: int | None) -> str | None:
    match = re.match(re.escape(source).replace(r"\{i\}", r"(\d+)"), name)
    if match is None:
        return None
    rest = name[match.end() :]
    if "{i}" not in source:
        return target + rest
    number = int(match.group(1))
    if number < low or (high is not None and number > high):
        return None
    return target.replace("{i}", str(number + shift)) + rest


@dataclasses.dataclass(frozen=True)
class Packed:
    """An official tensor holds several of ours, of one shape, one after another along its first dimension (queries, keys and
    values, say). Names as in `Rename`: one official beginning, and ours in the order in which they are packed.

    >>> list(Packed("attn.qkv.", ("attn.q.", "attn.k.", "attn.v.")).to_ours("attn.qkv.bias", torch.arange(3)))
    ['attn.q.bias', 'attn.k.bias', 'attn.v.bias']
    """

    official: str
    ours: tuple[str, ...]

    def to_ours(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The parts under our names; {} where the rule does not apply."""
        names = [new for rule in self._rules if (new := rule.to_ours(name)) is not None]
        if not names:
            return {}
        parts = torch.atleast_1d(tensor).tensor_split(len(names))
        return {new: part.clone() for new, part in zip(names, parts, strict=True)}

    def place(self, name: str) -> tuple[str, int] | None:
        """In which official tensor one of ours lies, and as which part; None where the rule does not apply."""
        found = ((rule.to_official(name), part) for part, rule in enumerate(self._rules))
        return next(((official, part) for official, part in found if official is not None), None)

    @property
    def _rules(self) -> list[Rename]:
        return [Rename(self.official, ours) for ours in self.ours]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointTable:
    """How a system's official checkpoints relate to our model.

    Attributes:
        system: name in messages.
        signatures: how an official checkpoint is recognised (those of the system's card).
        renames: tried in order; the first that applies wins.
        packed: official tensors that hold several of ours; tried before `renames`.
        aliases: older official names -> official names, applied before anything else.
        dropped: official name (regular expression, whole name) -> why it is knowingly not used.
        fresh: our name (regular expression, whole name) -> why the file does not fill it.
        supply: where fresh tensors come from that have to be those of a trained network; None where they are as built.
        check: raises UserError where the tensors of a file contradict the settings of the model, for which the table is.
    """

    system: str
    signatures: Sequence[Signature]
    renames: Sequence[Rename]
    packed: Sequence[Packed] = ()
    aliases: Sequence[Rename] = ()
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fresh: Mapping[str, str] = dataclasses.field(default_factory=dict)
    supply: Supply | None = None
    check: Callable[[Mapping[str, Tensor], str], None] | None = None

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether the names of a checkpoint are official ones of this system."""
        names = [self._current(name) for name in names]
        return any(signature.matches(names) for signature in self.signatures)

    def to_ours(self, tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
        """Official tensors under our names.

        Raises:
            UserError: a tensor is neither renamed nor listed as dropped, or two get the same name; and as `check`.
        """
        if self.check is not None:
            self.check(tensors, source)
        result: dict[str, Tensor] = {}
        for given, tensor in tensors.items():
            name = self._current(given)
            if any(re.fullmatch(pattern, name) for pattern in self.dropped):
                continue
            renamed = self._renamed(name, tensor)
            if not renamed:
                raise UserError(f"checkpoint '{source}' has {given!r}, which no official {self.system} checkpoint has")
            for ours in renamed:
                if ours in result:
                    raise UserError(f"checkpoint '{source}' has two tensors for {ours!r} (one is {given!r})")
            result |= renamed
        return result

    def _renamed(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """What one official tensor gives, {} where no rule applies."""
        for packed in self.packed:
            if parts := packed.to_ours(name, tensor):
                return parts
        return next(
            ({new: rule.value[0](tensor)} for rule in self.renames if (new := rule.to_ours(name)) is not None), {}
        )

    def supplied(self, *, source: str) -> dict[str, Tensor]:
        """Fresh tensors under our names, for the checkpoint `source`; empty where they stay as they were built.

        Raises:
            UserError: they can't be had.
        """
        given = {} if self.supply is None else self.supply(source)
        return {n: t for n, t in given.items() if any(re.fullmatch(pattern, n) for pattern in self.fresh)}

    def _current(self, name: str) -> str:
        return next((new for rule in self.aliases if (new := rule.to_ours(name)) is not None), name)

    def to_official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our tensors under their official names; ours that no official checkpoint has are left out.

        Raises:
            KeyError: a tensor is neither renamed nor listed as fresh.
        """
        result: dict[str, Tensor] = {}
        parts: dict[str, dict[int, Tensor]] = {}
        for name, tensor in tensors.items():
            place = next((found for packed in self.packed if (found := packed.place(name)) is not None), None)
            if place is not None:
                parts.setdefault(place[0], {})[place[1]] = tensor
                continue
            rule, official = next(
                ((rule, new) for rule in self.renames if (new := rule.to_official(name)) is not None), (None, None)
            )
            if rule is not None and official is not None:
                result[official] = rule.value[1](tensor)
            elif not any(re.fullmatch(pattern, name) for pattern in self.fresh):
                raise KeyError(f"{self.system} has no official name for {name!r}")
        result |= {name: torch.cat([some[part] for part in sorted(some)]) for name, some in parts.items()}
        return result


def check_complete(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, fresh: Iterable[str], source: str, model: str
) -> None:
    """UserError unless `tensors` fill `expected` exactly: names (but for `fresh` patterns), shapes and kinds of numbers."""
    patterns = list(fresh)
    missing = [n for n in expected if n not in tensors and not any(re.fullmatch(p, n) for p in patterns)]
    extra = [n for n in tensors if n not in expected]
    shapes = [n for n in tensors if n in expected and tensors[n].shape != expected[n].shape]
    if shapes:
        name = shapes[0]
        raise UserError(
            f"checkpoint '{source}' does not fit this {model}: {name!r} is {tuple(tensors[name].shape)} in the file and "
            f"{tuple(expected[name].shape)} in the model ({len(shapes)} such tensors); use the config it was trained with"
        )
    if missing or extra:
        raise UserError(
            f"checkpoint '{source}' does not fit this {model}: {len(missing)} tensors missing{_first(missing)}, "
            f"{len(extra)} unknown{_first(extra)}; use the config it was trained with"
        )
    for name, tensor in tensors.items():
        if expected[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"checkpoint '{source}' has {name!r} as {tensor.dtype}, which is no float; it was converted wrongly"
            )
        if tensor.is_floating_point() and tensor.isnan().any():
            raise UserError(
                f"checkpoint '{source}' has NaN in {name!r}: its training failed; take an earlier checkpoint"
            )


def _first(names: list[str]) -> str:
    return f" (first: {names[0]!r})" if names else ""

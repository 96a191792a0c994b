"""Configs: yaml files, and an override of every key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from robustness.damage import damage
from robustness.trial import CANARY, Door, Trial, require
from twostage.config.loading import default_config, load_config
from twostage.keys import all_keys, get_key

_GOOD = (
    "MODEL:\n  META_ARCHITECTURE: SAN\n  CLIP:\n    NAME: toybox-vit\n    TEMPLATES: vild\nSOLVER:\n  MAX_ITER: 20\n"
)
_ROOT = Path(__file__).parents[3]

_VALUES = (
    "None", "", " ", "0", "-1", "1e400", "nan", "inf", "-0.5", "True", "[]", "()", "{}", "[None]", "[[1]]", "{'a': 1}", "'",
    "(", "x", "2024", "1e3", "99999999999999999999999", "b'x'", "1j", "...", "[1, 'x', None]", "\0", "\ud800",
    "a" * 3000,    "__import__('os')", "(" * 500, "-" * 5000 + "1", "[float('nan')]", "{1, 2}", "0x10", "1_000", "'a' 'b'",
    "9" * 5000,
)  # fmt: skip
_OBJECTS: tuple[Any, ...] = (
    None,
    3,
    -2.5,
    True,
    [],
    {},
    b"x",
    object(),
    np.float32(2),
    np.int64(3),
    float("nan"),
    (1,),
    Path("a"),
)


def _kept(cfg: CfgNode, default: CfgNode) -> None:
    """Every key has the type of its default."""
    for key in all_keys(default):
        old, new = get_key(default, key), get_key(cfg, key)
        if isinstance(old, bool) or isinstance(new, bool):
            fits = isinstance(old, bool) == isinstance(new, bool) or old is None
        elif isinstance(old, int | float):
            fits = isinstance(new, int | float)
        else:
            fits = (
                old is None
                or isinstance(new, type(old))
                or (isinstance(old, list | tuple) and isinstance(new, list | tuple))
            )
        require(fits, f"{key} became {new!r}, its default is {old!r}")


def _yaml(content: bytes, others: dict[str, str], name: str = "config.yaml") -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        (folder / name).write_bytes(content)
        for other, text in others.items():
            (folder / other).write_text(text)
        _kept(load_config(str(folder / name)), default_config())

    return action


def _hostile() -> Iterator[tuple[str, str, dict[str, str]]]:
    call = f"!!python/object/apply:os.system ['touch ../{CANARY}']"
    aliases = "A: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{chr(66 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    )
    yield from (
        ("code", f"MODEL:\n  WEIGHTS: {call}\n", {}),
        ("code in base", "_BASE_: base.yaml\n", {"base.yaml": f"MODEL: {call}\n"}),
        ("code at the top", f"{call}\n", {}),
        ("own base", "_BASE_: config.yaml\n", {}),
        ("loop of bases", "_BASE_: a.yaml\n", {"a.yaml": "_BASE_: b.yaml\n", "b.yaml": "_BASE_: a.yaml\n"}),
        ("no base", "_BASE_: nowhere.yaml\n", {}),
        ("base is a folder", "_BASE_: .\n", {}),
        ("base is a number", "_BASE_: 3\n", {}),
        ("base is none", "_BASE_:\n", {}),
        ("base is a list", "_BASE_: [a.yaml, a.yaml]\n", {"a.yaml": _GOOD}),
        ("base of the web", "_BASE_: https://127.0.0.1:1/x.yaml\n", {}),
        ("base with an odd scheme", "_BASE_: detectron2://x.yaml\n", {}),
        ("base of a list", "_BASE_: a.yaml\n", {"a.yaml": "- 1\n"}),
        ("base replaces a group", "_BASE_: a.yaml\nMODEL:\n  CLIP: 3\n", {"a.yaml": _GOOD}),
        ("aliases", aliases, {}),
        ("deep", "[" * 3000, {}),
        ("empty", "", {}),
        ("text", "hello", {}),
        ("list", "- a\n- b\n", {}),
        ("number", "3\n", {}),
        ("null", "null\n", {}),
        ("twice", "MODEL:\n  WEIGHTS: a\nMODEL:\n  WEIGHTS: b\n", {}),
        ("tab", "MODEL:\n\tWEIGHTS: a\n", {}),
        ("unknown key", "MODEL:\n  WEIGTHS: a\n", {}),
        ("numbers as keys", "1: 2\n", {}),
        ("none as key", "null: 2\n", {}),
        ("group as value", "MODEL: 3\n", {}),
        ("group as none", "MODEL:\n", {}),
        ("group as list", "MODEL: [1]\n", {}),
        ("value as group", "SOLVER:\n  MAX_ITER:\n    A: 1\n", {}),
        ("date", "OUTPUT_DIR: 2024-01-01\n", {}),
        ("two documents", "MODEL: {}\n---\nMODEL: {}\n", {}),
        ("version 1", "VERSION: 1\nMODEL:\n  WEIGHTS: a\n", {}),
        ("version 99", "VERSION: 99\n", {}),
        ("version text", "VERSION: two\n", {}),
        ("dotted key", "MODEL.WEIGHTS: a\n", {}),
        ("merge key", "<<: [1, 2]\n", {}),
        ("eval text", "DATASETS:\n  TEST: \"__import__('os').system('touch ../canary')\"\n", {}),
        ("tuple as text", "DATASETS:\n  TEST: \"('a',\"\n", {}),
        ("long number", f"SOLVER:\n  MAX_ITER: {'9' * 5000}\n", {}),
        ("infinite", "SOLVER:\n  MAX_ITER: .inf\n", {}),
        ("set", "MODEL: !!set {a, b}\n", {}),
        ("binary value", "MODEL:\n  WEIGHTS: !!binary aGVsbG8=\n", {}),
        ("utf-16", "\ufeff" + _GOOD, {}),
    )


def yaml_trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Files meant badly, then damaged good ones."""
    hostile = list(_hostile())
    chosen = rng.permutation(len(hostile))[: max(8, count // 2)]
    for index in chosen:
        name, text, others = hostile[index]
        yield Trial(name, _yaml(text.encode("utf-16" if name == "utf-16" else "utf-8"), others))
    files = sorted((_ROOT / "configs").rglob("*.yaml"))
    for index in range(max(1, count - len(chosen))):
        file = files[int(rng.integers(len(files)))]
        how, content = damage(rng, file.read_bytes())
        # Where its bases are.
        content = content.replace(b"_BASE_: ..", f"_BASE_: {file.parent.parent}".encode())
        yield Trial(f"{file.stem}, {how} #{index}", _yaml(content, {}))


def _override(key: str, value: Any, config: str) -> Callable[[Path], None]:
    def action(_folder: Path) -> None:
        cfg = load_config(config, [key, value])
        _kept(cfg, default_config())
        cfg.dump()

    return action


def override_trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """Every key with a random value, then keys that there are not."""
    keys = all_keys(default_config())
    config = str(_ROOT / "configs" / "toybox" / "san.yaml")
    for index in range(count):
        key = keys[index * len(keys) // count] if count < len(keys) else keys[index % len(keys)]
        value = (
            _OBJECTS[int(rng.integers(len(_OBJECTS)))]
            if rng.random() < 0.1
            else _VALUES[int(rng.integers(len(_VALUES)))]
        )
        yield Trial(f"{key} {str(value)[:30]!r} #{index}", _override(key, value, config))
    for odd in (
        "",
        ".",
        "MODEL",
        "MODEL.",
        ".MODEL",
        "MODEL.CLIP.",
        "MODEL..CLIP",
        "model.weights",
        "MODEL.WEIGHTS.X",
        "\0",
        "x=1",
    ):
        yield Trial(f"key {odd!r}", _override(odd, "1", config))


YAML_DOOR = Door("yaml configs", yaml_trials)
OVERRIDE_DOOR = Door("overrides", override_trials)

"""From the settings of a case, under the authors' names, to a config of ours.

A system's table says for each official key where its value goes. A key that is not in the table is an error: a case is never
run with other settings than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from twostage.config import load_config
from twostage.config.loading import default_config, get_key
from twostage.errors import UserError, near_names

CONFIGS = Path(__file__).parents[2] / "configs"
# Every tensor comes from the seed, so no pretrained weights are read.
SEEDED = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")

# From an official value to pairs of our key and its value.
Setting = Callable[[Any], list[tuple[str, Any]]]
Table = Mapping[str, Setting]


def to(*keys: str, convert: Callable[[Any], Any] = lambda value: value) -> Setting:
    """The value, converted, is that of our `keys`."""
    return lambda value: [(key, convert(value)) for key in keys]


def choice(key: str, values: Mapping[Any, Any]) -> Setting:
    """Official word -> our word."""

    def setting(value: Any) -> list[tuple[str, Any]]:
        if value not in values:
            raise UserError(f"it is {value!r}; known here: {', '.join(map(repr, values))}")
        return [(key, values[value])]

    return setting


def only(*values: Any) -> Setting:
    """There is one way here; a case that wants another can't be run."""

    def setting(value: Any) -> list[tuple[str, Any]]:
        if not any(_same(value, allowed) for allowed in values):
            raise UserError(f"it is {value!r}; here it is always {' or '.join(map(repr, values))}")
        return []

    return setting


def free(_value: Any) -> list[tuple[str, Any]]:
    """Nothing that a case compares depends on it here, or it follows from something else that the case says."""
    return []


def _same(value: Any, allowed: Any) -> bool:
    return str(value) == str(allowed) or list_of(value) == list_of(allowed)


def list_of(value: Any) -> Any:
    """Tuples as lists, as in a config."""
    return list(value) if isinstance(value, tuple) else value


def clip_name(value: str) -> str:
    """A published name of a CLIP as open_clip's: `ViT-L/14@336px` is `ViT-L-14-336`, `EVA02-CLIP-B-16` is `EVA02-B-16`."""
    return value.replace("/", "-").replace("@", "-").removesuffix("px").replace("EVA02-CLIP-", "EVA02-")


def square(value: Any) -> int:
    """The side of `[side, side]`, or a number as it is."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise UserError(f"only equal sides can be had, not {value!r}")
    return int(sides.pop())


def first_word(value: str) -> str:
    """`vild (14)` is `vild`."""
    return value.split()[0]


def on_off(value: Any) -> str:
    """As `MODEL.CLIP.QUICK_GELU`."""
    return "on" if value in (True, "True") else "off"


# What all systems share. Data, schedule and outputs' whereabouts never enter a comparison.
COMMON: Table = {
    **dict.fromkeys(("OUTPUT_DIR", "SEED", "VERSION", "CUDNN_BENCHMARK", "DATASETS.TRAIN", "DATASETS.TEST"), free),
    **dict.fromkeys(("MODEL.WEIGHTS", "MODEL.META_ARCHITECTURE", "MODEL.DEVICE", "TEST.EVAL_PERIOD"), free),
    **dict.fromkeys(("INPUT.FORMAT", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"), free),
    **dict.fromkeys(("SOLVER.AMP.ENABLED", "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS"), free),
}
# Keys that have the same name here.
_SAME_NAME = ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "SOLVER.", "MODEL.RESNETS.", "MODEL.BACKBONE.FREEZE_AT")


def pairs(*sources: Any) -> dict[str, Any]:
    """Overrides as key -> value, from lists `[key, value, ...]` and from objects; later ones win."""
    result: dict[str, Any] = {}
    for source in sources:
        if isinstance(source, Mapping):
            result.update(source)
        elif source:
            result.update(zip(source[::2], source[1::2], strict=True))
    return result


def options(table: Table, settings: Mapping[str, Any]) -> list[str]:
    """`KEY VALUE` overrides of our config for official `settings`.

    Raises:
        UserError: a key without an entry in `table` or `COMMON`, or a value that we do not have.
    """
    result: list[str] = []
    for key, value in settings.items():
        setting = table.get(key) or COMMON.get(key)
        if setting is None and key.startswith(_SAME_NAME) and _is_ours(key):
            setting = to(key)
        if setting is None:
            raise UserError(f"the case sets {key!r}, which has no key here{near_names(key, table)}")
        try:
            for ours, converted in setting(value):
                result += [ours, str(list_of(converted))]
        except (UserError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"the case sets {key!r} to {value!r}, which can't be had here: {error}") from error
    return result


def _is_ours(key: str) -> bool:
    try:
        get_key(default_config(), key)
    except KeyError:
        return False
    return True


def case_config(name: str, opts: Sequence[str] = ()) -> CfgNode:
    """Our config file `name`, for seeded weights on the CPU, with `KEY VALUE` overrides."""
    return load_config(str(CONFIGS / f"{name}.yaml"), [*SEEDED, *opts])


def file_stem(value: str) -> str:
    """Of a published config file: `configs/san_clip.yaml` is `san_clip`."""
    return value.rpartition("/")[2].removesuffix(".yaml")


def config_of(value: str, known: Mapping[str, str], case: Any) -> str:
    """Our config for the published file that a case names. Raises UserError where there is none."""
    if (stem := file_stem(value)) not in known:
        raise UserError(f"case '{case.path}' runs {value!r}; there are configs of ours for: {', '.join(known)}")
    return known[stem]

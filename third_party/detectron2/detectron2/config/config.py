"""`CfgNode` and `@configurable`, the bridge from a config to explicit constructor arguments."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import IO, Any

from fvcore.common.config import CfgNode as FvcoreNode

from detectron2.utils.file_io import PathManager

CONFIG_VERSION = 2


class CfgNode(FvcoreNode):
    """fvcore's config node, which opens files through this package's `PathManager` and knows one `VERSION` only."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merge a yaml file and what its `_BASE_` names.

        Args:
            allow_unsafe: also read yaml tags that run Python code, after a warning. Default as upstream's.

        Raises:
            AssertionError: no such file, or one of another `VERSION`.
            KeyError: a key that this tree does not have.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=allow_unsafe))
        version = loaded.get("VERSION", CONFIG_VERSION)
        assert version == CONFIG_VERSION, (
            f"'{cfg_filename}' has VERSION {version}, this package reads version {CONFIG_VERSION} only"
        )
        self.merge_from_other_cfg(loaded)


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """A fresh copy of the default config."""
    from detectron2.config.defaults import DEFAULTS

    return DEFAULTS.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Make `detectron2.config.global_cfg` hold what `cfg` holds; the object stays the same."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Any:
    """Let a constructor or a function be called with a config in place of its own arguments.

    On a class, decorate `__init__` and write a classmethod `from_config(cls, cfg, ...) -> dict of arguments`; then both
    `A(a=1)` and `A(cfg, b=2)` work, where `b` goes to `from_config` if that names it, else overrides its result.
    On a function: `@configurable(from_config=...)`.

    Raises (when called with a config):
        AttributeError: the class has no `from_config`.
        TypeError: `from_config` is no classmethod, or its first parameter is not called `cfg`.
    """
    if from_config is None:
        assert inspect.isfunction(init_func) and init_func.__name__ == "__init__", (
            "without from_config, @configurable decorates a class's __init__ and takes no arguments"
        )
        return _configurable_init(init_func)
    assert inspect.isfunction(from_config), "from_config must be a function"

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not _has_config(args, kwargs):
                return function(*args, **kwargs)
            return function(**_explicit_arguments(from_config, args, kwargs))

        wrapper.from_config = from_config  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _configurable_init(init: Callable) -> Callable:
    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        cls = type(self)
        if not hasattr(cls, "from_config"):
            raise AttributeError(f"{cls.__name__} has a @configurable __init__ and needs a classmethod 'from_config'")
        if not inspect.ismethod(cls.from_config):
            raise TypeError(f"{cls.__name__}.from_config must be a classmethod")
        if _has_config(args, kwargs):
            init(self, **_explicit_arguments(cls.from_config, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return wrapper


def _has_config(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether the call's first positional argument, or its keyword `cfg`, is a config."""
    kinds: tuple[type, ...] = (FvcoreNode,)
    # An omegaconf tree can only turn up where somebody has imported omegaconf.
    if "omegaconf" in sys.modules:
        kinds += (sys.modules["omegaconf"].DictConfig,)
    return isinstance(args[0] if args else None, kinds) or isinstance(kwargs.get("cfg"), kinds)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What `from_config` makes of the call, overridden by the keywords that it does not take."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"the first parameter of {from_config.__qualname__} must be called 'cfg'")
    takes_all = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    taken = {key: value for key, value in kwargs.items() if takes_all or key in parameters}
    overrides = {key: value for key, value in kwargs.items() if key not in taken}
    return {**from_config(*args, **taken), **overrides}

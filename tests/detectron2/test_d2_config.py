"""Configs, `@configurable` and the registry, as Detectron2 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.config import CfgNode, configurable, get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils.registry import Registry


def test_defaults() -> None:
    cfg = get_cfg()
    add_deeplab_config(cfg)
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == ((800,), 1333, "BGR")
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_FACTOR) == (0.001, (30000,), 0.001)
    assert cfg.SOLVER.CLIP_GRADIENTS == {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0}
    assert cfg.TEST.AUG.MIN_SIZES == (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)
    assert (cfg.SOLVER.POLY_LR_POWER, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA) == (0.9, 1.0)
    assert cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS == [6, 12, 18]


def test_get_cfg_gives_a_fresh_copy() -> None:
    get_cfg().MODEL.DEVICE = "cpu"
    assert get_cfg().MODEL.DEVICE == "cuda"


def test_base_files_and_round_trip(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER: {BASE_LR: 0.5, MAX_ITER: 7, WARMUP_FACTOR: 1e-6}\n")
    (tmp_path / "child.yaml").write_text(
        "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9, STEPS: [3, 4]}\nINPUT:\n"
        "  MIN_SIZE_TRAIN: !!python/object/apply:eval ['[int(x * 0.1 * 640) for x in range(5, 8)]']\n"
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "child.yaml"))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (0.5, 9, (3, 4))
    assert cfg.SOLVER.WARMUP_FACTOR == 1e-6
    assert cfg.INPUT.MIN_SIZE_TRAIN == (320, 384, 448)
    (tmp_path / "dump.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "dump.yaml"))
    assert (again.SOLVER, again.INPUT, again.DATASETS) == (cfg.SOLVER, cfg.INPUT, cfg.DATASETS)


def test_what_merging_refuses(tmp_path: Path) -> None:
    cfg = get_cfg()
    with pytest.raises(ValueError, match="Type mismatch"):
        cfg.merge_from_list(["SOLVER.BASE_LR", 1])
    with pytest.raises(AssertionError, match="Non-existent key"):
        cfg.merge_from_list(["SOLVER.NOTHING", 1])
    with pytest.raises(AssertionError):
        cfg.merge_from_list(["SOLVER.BASE_LR"])
    (tmp_path / "unknown.yaml").write_text("VERSION: 2\nSOLVER: {NOTHING: 1}\n")
    with pytest.raises(KeyError, match="Non-existent config key"):
        cfg.merge_from_file(str(tmp_path / "unknown.yaml"))
    with pytest.raises(AssertionError):
        cfg.merge_from_file(str(tmp_path / "missing.yaml"))
    cfg.freeze()
    with pytest.raises(AttributeError, match="immutable"):
        cfg.SEED = 3


@pytest.mark.own_detectron2
def test_other_versions_are_refused(tmp_path: Path) -> None:
    # Upstream upgrades version 1.
    (tmp_path / "old.yaml").write_text("VERSION: 1\n")
    with pytest.raises(AssertionError, match="VERSION 1"):
        get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


class Configured:
    @configurable
    def __init__(self, a: int, b: int = 2) -> None:
        self.values = (a, b)

    @classmethod
    def from_config(cls, cfg: CfgNode, factor: int = 1) -> dict[str, int]:
        return {"a": cfg.A * factor}


def test_configurable_class() -> None:
    cfg = CfgNode({"A": 3})
    assert Configured(cfg).values == (3, 2)
    assert Configured(cfg, b=5).values == (3, 5)
    assert Configured(cfg=cfg, b=9).values == (3, 9)
    assert Configured(cfg, factor=4, b=1).values == (12, 1)
    assert Configured(cfg, a=8).values == (8, 2)
    assert Configured(a=1).values == (1, 2)
    assert Configured(1, 7).values == (1, 7)


def test_configurable_takes_all_and_function() -> None:
    class TakesAll(Configured):
        @classmethod
        def from_config(cls, cfg: CfgNode, *args: int, **kwargs: int) -> dict[str, int]:
            return {"a": sum(args) + sum(kwargs.values())}

    assert TakesAll(CfgNode({"A": 3}), 10, b=5).values == (15, 2)

    @configurable(from_config=lambda cfg, c: {"a": cfg.A + c})
    def function(a: int, b: int = 0) -> tuple[int, int]:
        return a, b

    assert function(CfgNode({"A": 3}), 4, b=6) == (7, 6)
    assert function(1) == (1, 0)


def test_configurable_errors() -> None:
    class Without:
        @configurable
        def __init__(self) -> None: ...

    class NoMethod(Without):
        @staticmethod
        def from_config(cfg: CfgNode) -> dict[str, int]:
            return {}

    class OtherName(Without):
        @classmethod
        def from_config(cls, config: CfgNode) -> dict[str, int]:
            return {}

    with pytest.raises(AttributeError):
        Without(CfgNode())
    with pytest.raises(TypeError):
        NoMethod(CfgNode())
    with pytest.raises(TypeError):
        OtherName(CfgNode())


def test_registry() -> None:
    registry = Registry("THINGS")
    registry.register(Configured)
    assert "Configured" in registry and registry.get("Configured") is Configured
    with pytest.raises(AssertionError):
        registry.register(Configured)
    with pytest.raises(KeyError, match="No object named 'x' found in 'THINGS' registry!"):
        registry.get("x")

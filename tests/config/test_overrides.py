"""Overrides: text read as the type of its key, paths with `~`, and what is refused."""

from __future__ import annotations

import re

import pytest

from twostage.config import load_config
from twostage.config.overrides import as_type_of
from twostage.errors import UserError


@pytest.mark.parametrize(
    ("old", "text", "wanted"),
    [
        ("./output", "2024", "2024"),
        ("./output", "1e3", "1e3"),
        ("./output", "'quoted'", "quoted"),
        ("", "None of these", "None of these"),
        (16, "2.0", 2),
        (16, "1e3", 1000),
        (0.1, "1", 1.0),
        (False, "true", True),
        (True, "0", False),
        ((), "ds", ("ds",)),
        ((), "('ds')", ("ds",)),
        ((), "a, b,", ("a", "b")),
        ([4, 8], "(2, 5)", [2, 5]),
        (("a",), "['1', '2']", ("1", "2")),
        ((640,), "512", (512,)),
    ],
)
def test_values(old: object, text: str, wanted: object) -> None:
    value = as_type_of(old, text, key="KEY")
    assert value == wanted and type(value) is type(wanted)


@pytest.mark.parametrize(
    ("old", "text", "said"),
    [
        ("./output", "None", "for none give ''"),
        (16, "2.5", "type int"),
        (16, "True", "type int"),
        (16, "many", "type int"),
        (0.1, "much", "type float"),
        (False, "perhaps", "type bool"),
        ([4, 8], "a,b", "holds numbers"),
        ((), "None", r"for none give \(\)"),
    ],
)
def test_what_does_not_fit(old: object, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        as_type_of(old, text, key="KEY")


def test_pairs() -> None:
    cfg = load_config(opts=["OUTPUT_DIR=runs/1", "SOLVER.MAX_ITER", "7", "DATASETS.TEST", "a,b"])
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST) == ("runs/1", 7, ("a", "b"))
    for opts, said in (
        (["OUTPUT_DIR"], "has no value"),
        (["SOLVER.MAX_ITR", "7"], "SOLVER.MAX_ITER"),
        (["SOLVER", "7"], "is a group"),
        (["OUTPUT_DIR", ""], "OUTPUT_DIR is empty"),
        (["MODEL.META_ARCHITECTURE", "SANN"], "did you mean 'SAN'"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(opts=opts)


def test_the_home_folder_is_found_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/my home")
    opts = ["OUTPUT_DIR", "~/out put", "MODEL.WEIGHTS", "~/w.pth", "DATASETS.FOLDERS", "('ds=~/my data', '~/b')"]
    cfg = load_config(opts=[*opts, "MODEL.FCCLIP.TRAIN_VOCABULARY", "~/names.txt"])
    assert (cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS) == ("/my home/out put", "/my home/w.pth")
    assert cfg.DATASETS.FOLDERS == ("ds=/my home/my data", "/my home/b")
    assert cfg.MODEL.FCCLIP.TRAIN_VOCABULARY == "/my home/names.txt"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "1e400"),
        ("SOLVER.BASE_LR", "9" * 400),
        ("SOLVER.MAX_ITER", "1e400"),
        ("DATASETS.TEST", "{1, 2}"),
        ("DATASETS.TEST", "[1j]"),
        ("OUTPUT_DIR", "a\0b"),
        ("OUTPUT_DIR", b"x"),
        ("OUTPUT_DIR", object()),
        ("SOLVER.AMP.ENABLED", "-" * 5000),
    ],
)
def test_values_that_no_key_can_have(key: str, value: object) -> None:
    with pytest.raises(UserError, match=re.escape(key)) as error:
        load_config(opts=[key, value])  # type: ignore[list-item]
    assert len(str(error.value)) < 400

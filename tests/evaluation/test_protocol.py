"""What a results file says of its settings, and the protocol of eight test sets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from twostage.api import find_config
from twostage.commands import evaluate_eight
from twostage.commands.evaluate import run_from_arguments
from twostage.config import load_config
from twostage.errors import UserError
from twostage.evaluation.protocol import protocol_of, protocol_table
from twostage.evaluation.selection import select_datasets


def settings(name: str) -> dict:
    cfg = load_config(find_config(name), ["MODEL.CLIP.TEXT_CACHE", ""])
    return protocol_of(cfg.dump(), ["sky, wall", "person"])


def test_settings_are_those_of_the_config() -> None:
    told = settings("training_free/proxyclip_dino_voc21")
    assert told["resize"].startswith("opencv ") and "short side 336" in told["resize"]
    assert (told["window"], told["stride"], told["names"]) == (336, 112, "proxyclip")
    assert told["probability_threshold"] == 0.2 and told["background"] == "sky, wall" and told["precision"] == "float32"
    told = settings("training_free/talk2dino_voc21")
    assert told["background_score"] == 0.55 and told["background"] is None
    assert settings("toybox/maskclip")["window"] is None
    assert protocol_of("", []) == {}


def test_table_leaves_out_what_no_row_has() -> None:
    table = protocol_table({"a": {"window": 224, "x": None}, "b": {"window": None, "x": None, "stride": 112}})
    assert table.splitlines() == ["| | window | stride |", "|---|---|---|", "| a | 224 | - |", "| b | - | 112 |"]


def test_every_protocol_is_found_by_its_systems_config() -> None:
    for config, count in (("naclip_vitb", 8), ("proxyclip_dino", 8), ("proxyclip_dinov2", 8), ("clip_dinoiser", 6)):
        found = evaluate_eight.protocol_configs(f"configs/{config}.yaml")
        assert len(found) == count
        for name in found.values():
            assert len(load_config(find_config(name)).DATASETS.TEST) == 1
    with pytest.raises(UserError, match=r"no protocol of eight test sets for 'san'; there is one for .*naclip"):
        evaluate_eight.protocol_configs("configs/san_vitb.yaml")
    with pytest.raises(UserError, match="'eight' has settings of its own"):
        select_datasets(["eight", "A-150"])


def test_eight_runs_each_config_and_writes_one_page(tmp_path: Path, monkeypatch, capsys) -> None:
    asked = []

    def evaluated(config: str, folder: Path, _args) -> bool:
        asked.append(config)
        if config.endswith("voc20"):
            return False
        (test_set,) = load_config(find_config(config)).DATASETS.TEST
        record = {"figures": {"mIoU": 10.0 * len(asked)}, "protocol": settings(config)}
        (folder / "inference").mkdir(parents=True)
        (folder / "inference" / f"results-{test_set}.json").write_text(json.dumps(record))
        return True

    monkeypatch.setattr(evaluate_eight, "_evaluate", evaluated)
    monkeypatch.setattr(evaluate_eight, "results_page", lambda title, records: f"# {title} {len(records)}")
    args = argparse.Namespace(
        datasets=["eight"],
        opts=["OUTPUT_DIR", str(tmp_path)],
        list=None,
        config_file=find_config("naclip_vitb"),
        name="",
    )
    with pytest.raises(UserError, match=r"could not be evaluated: voc20; their logs are under"):
        run_from_arguments(args)
    page = (tmp_path / "results.md").read_text()
    assert len(asked) == 8 and "# naclip_vitb 7" in page and page in capsys.readouterr().out
    assert f"Mean mIoU of 7 test sets: {(360 - 40) / 7:.2f}." in page and "| cityscapes_val | opencv" in page

"""What a results file says of its settings, and the protocol of eight test sets."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import cv2
import PIL
import pytest

from twostage.api import find_config
from twostage.commands import evaluate_eight
from twostage.commands.evaluate import run_from_arguments
from twostage.config import load_config
from twostage.data.views import dataset_info, evaluated_view
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.protocol import protocol_of, protocol_table
from twostage.evaluation.selection import select_datasets


def settings(name: str, *opts: str) -> dict:
    cfg = load_config(find_config(name), ["MODEL.CLIP.TEXT_CACHE", "", *opts])
    (test_set,) = cfg.DATASETS.TEST
    return protocol_of(cfg.dump(), EvaluatedDataset.of(evaluated_view(cfg, test_set)))


def test_settings_are_those_of_the_config() -> None:
    told = settings("training_free/proxyclip_dino_voc21")
    assert told["resize"] == f"opencv {cv2.__version__}, short side 336, long side at most 2048"
    assert (told["window"], told["stride"], told["names"]) == (336, 112, "proxyclip")
    assert told["probability_threshold"] == 0.2 and told["background"].startswith("sky, wall, tree")
    assert told["precision"] == "float32" and told["foundation"] == "dino_vitb8" and told["masks"] is None
    assert settings("training_free/proxyclip_dino_voc20")["background"] is None
    told = settings("training_free/talk2dino_voc21")
    assert told["background_score"] == 0.55 and told["background"] == "no words"
    told = settings("training_free/trident_ade20k", "MODEL.PRECISION", "bfloat16", "FLOAT32_PRECISION", "high")
    assert told["precision"] == "bfloat16, products high"
    assert told["SAM's picture"] == f"opencv {cv2.__version__}, then pillow {PIL.__version__}"
    assert settings("training_free/corrclip_voc21", "MODEL.MASKS.SOURCE", "superpixels")["masks"] == "superpixels"
    told = settings("toybox/maskclip")
    assert told["window"] == "whole picture" and told["resize"].startswith(f"pillow {PIL.__version__}, short side")
    assert settings("clip_diy")["resize"] == f"pillow {PIL.__version__}, stretched to 256 x 256"
    assert protocol_of("", EvaluatedDataset.of(dataset_info("toybox_val_open"))) == {}


def test_names_are_those_that_were_asked_for() -> None:
    """Not the key's value: "auto" is another list on every benchmark and under every registered name."""
    asked = {
        ("san_vitb", "ade20k_150_val"): "detectron2",
        ("fcclip_r50", "ade20k_150_val"): "fcclip",
        ("catseg_vitb", "ade20k_150_val"): "catseg",
        ("toybox/san", "toybox_val_open"): "the dataset's own",
    }
    for (name, test_set), whose in asked.items():
        assert settings(name, "DATASETS.TEST", f"('{test_set}',)")["names"] == whose
    more = settings("toybox/san", "DATASETS.DISTRACTORS", "toybox:7")
    assert more["names"] == "the dataset's own, and 7 that no label holds"


# System -> its test sets without published settings.
SYSTEMS = {
    "clip_vitb": (),
    "sclip_vitb": (),
    "naclip_vitb": (),
    "clearclip_vitb": (),
    "maskclip_vitb": ("voc21", "context60", "coco_object"),
    "proxyclip_dino": (),
    "proxyclip_dinov2": (),
    "corrclip": (),
    "trident": (),
    "clip_dinoiser": (),
    "talk2dino_vitb": (),
}
WITH_BACKGROUND = ("voc21", "context60", "coco_object")
# What makes a pixel background; a system has one of them.
RULES = ("probability_threshold", "background_rule", "background_score")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_row_of_the_eight_states_what_moves_it(system: str) -> None:
    found = evaluate_eight.protocol_configs(f"configs/{system}.yaml")
    assert set(found) == set(evaluate_eight.EIGHT) - set(SYSTEMS[system])
    for test_set, config in found.items():
        told = settings(config)
        assert re.match(r"opencv \d+\.\d+.*, short side \d+, long side at most \d+$", told["resize"])
        assert told["window"] == "whole picture" or told["window"] >= told["stride"] > 0
        assert told["precision"] == "float32" and told["names"] and told["templates"]
        (rule,) = (name for name in RULES if name in told)
        if test_set not in WITH_BACKGROUND:
            assert told["background"] is None and not told[rule]
        elif rule == "background_rule":
            assert told["background"] == "background" and told[rule] == (test_set != "context60")
        else:
            assert told["background"] and 0 < told[rule] < 1


def test_table_leaves_out_what_no_row_has() -> None:
    table = protocol_table({"a": {"window": 224, "x": None}, "b": {"window": None, "x": None, "stride": 112}})
    assert table.splitlines() == ["| | window | stride |", "|---|---|---|", "| a | 224 | - |", "| b | - | 112 |"]


def test_a_system_without_a_protocol_is_told() -> None:
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
        skip_missing=False,
    )
    with pytest.raises(UserError, match=r"could not be evaluated: voc20; their logs are under"):
        run_from_arguments(args)
    page = (tmp_path / "results.md").read_text()
    assert len(asked) == 8 and "# naclip_vitb 7" in page and page in capsys.readouterr().out
    assert f"Mean mIoU of 7 test sets: {(360 - 40) / 7:.2f}." in page and "| cityscapes_val | opencv" in page

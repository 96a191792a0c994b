"""A list of systems: how it is read, and the table and page that are made of their results."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.commands import evaluate_list, own_process
from twostage.commands.evaluate_list import comparison, mean_images, read_list
from twostage.config.finding import find_config
from twostage.errors import UserError

DATASET = "toybox_val_open"


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_list_names_systems_by_their_configs(tmp_path):
    text = "- {name: A, config: toybox/san}\n- {name: B, config: toybox/san, options: [SEED, 3]}\n"
    first, second = read_list(write(tmp_path / "list.yaml", text))
    assert (first.name, first.config, list(first.options)) == ("A", find_config("toybox/san"), [])
    assert list(second.options) == ["SEED", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no list of systems"),
        ("{a: 1}", "is no list of systems"),
        ("- {name: A}", "entry 1 .* must have 'name' and 'config'"),
        ("- {name: A, config: toybox/san, weights: x}", "and nothing else"),
        ("- {name: a b, config: toybox/san}\n- {name: A_b, config: toybox/san}", "'a b' and 'A_b', .* in one folder"),
        ("- {name: ' ', config: toybox/san}", "a name of 0 letters"),
        (f"- {{name: {'x' * 300}, config: toybox/san}}", "a name of 300 letters"),
        ("- {name: A, config: toybox/san, options: SEED 3}", "has the options 'SEED 3'; they must be a list"),
        ("- {name: A, config: toybox/san, options: 5}", "they must be a list"),
        ("- {name: A, config: toybox/san, options: [SEED: 3]}", "they must be a list"),
        ("- 2001-99-99", "can't be read"),
        ("- {name: A, config: toybox/sam}", "san"),
        ("- [", "can't be read"),
    ],
)
def test_a_wrong_list_is_told(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_list(write(tmp_path / "list.yaml", text))
    with pytest.raises(UserError, match="can't be read"):
        read_list(str(tmp_path / "absent.yaml"))


def record(folder: Path, ious: dict[str, float], label: int) -> dict:
    """A results file with a saved prediction of one colour per image, written where an evaluation writes it."""
    images = []
    for name, miou in ious.items():
        prediction = folder / f"{Path(name).stem}.png"
        prediction.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 16), label, np.uint8)).save(prediction)
        images.append(
            {
                "file_name": name,
                "sem_seg_file_name": name.replace(".jpg", ".png"),
                "prediction": str(prediction),
                "miou": miou,
            }
        )
    figures = {"mIoU": 50.0, "mIoU-seen": 60.0 + label, "mIoU-unseen": 40.0, "mIoU-harmonic": 48.0 + label}
    content = {
        "dataset": DATASET,
        "figures": figures,
        "images": images,
        "num_images": len(images),
        "seconds_of_images": 1.5,
        "memory": {"peak_rss_mib": 700.4, "peak_gpu_mib": 0.0},
        "class_names": ["grass", "sky"],
        "class_colors": None,
        "unseen_classes": [1],
        "iou_per_class": [60.0, 40.0],
    }
    target = folder / "inference" / f"results-{DATASET}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
    return content


def test_results_stay_in_the_folder(tmp_path):
    entries = read_list(write(tmp_path / "list.yaml", "- {name: .., config: toybox/san}\n"))
    assert evaluate_list._folder(entries[0].name) == "__" and evaluate_list._folder("table.md") == "table_md"


def arguments(tmp_path: Path, text: str, **given: object) -> argparse.Namespace:
    known = {"num_gpus": 1, "resume": False, "report": False, "skip_broken": False, "name": "", "skip_missing": False}
    known |= {
        "list": write(tmp_path / "list.yaml", text),
        "datasets": [DATASET],
        "opts": ["OUTPUT_DIR", str(tmp_path / "out")],
    }
    return argparse.Namespace(**known | given)


def test_what_is_wrong_is_told_before_the_first_system_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_list, "_evaluate", None)
    text = "- {name: A, config: toybox/san}\n- {name: B, config: toybox/san, options: [SED, 3]}\n"
    with pytest.raises(UserError, match=r"B: .*SED"):
        evaluate_list.run_from_arguments(arguments(tmp_path, text))
    with pytest.raises(UserError, match="--skip-missing has no meaning with --list"):
        evaluate_list.run_from_arguments(arguments(tmp_path, text, skip_missing=True))


def test_a_folder_of_ones_own_is_a_dataset(tmp_path, monkeypatch):
    for part in ("images", "labels"):
        (tmp_path / "mine" / part).mkdir(parents=True)
    (tmp_path / "mine/classes.txt").write_text("cat\ndog\n")
    asked = []
    monkeypatch.setattr(evaluate_list, "_evaluate", lambda entry, datasets, folder, args: asked.extend(datasets))
    text = f"- {{name: A, config: toybox/san, options: [DATASETS.FOLDERS, {tmp_path / 'mine'}]}}\n"
    with pytest.raises(UserError, match="could not be evaluated: A"):
        evaluate_list.run_from_arguments(arguments(tmp_path, text, datasets=["mine"]))
    assert asked == ["mine"]


def test_processes_have_the_switches_and_their_end_is_told(tmp_path, monkeypatch, caplog):
    commands = []

    def start(command, **streams):
        commands.append(command)
        return subprocess.CompletedProcess(command, -signal.SIGKILL)

    monkeypatch.setattr(own_process.subprocess, "run", start)
    with pytest.raises(UserError, match="could not be evaluated: --a"):
        evaluate_list.run_from_arguments(arguments(tmp_path, "- {name: --a, config: toybox/san}", skip_broken=True))
    assert "--skip-broken" in commands[0] and "--name=--a" in commands[0] and "--report" not in commands[0]
    assert "--a: killed by SIGKILL" in caplog.text and not (tmp_path / "out/table.md").exists()


@pytest.fixture
def pictures(tmp_path):
    names = []
    for index in range(3):
        Image.fromarray(np.full((12, 16, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.jpg")
        Image.fromarray(np.zeros((12, 16), np.uint8)).save(tmp_path / f"{index}.png")
        names.append(str(tmp_path / f"{index}.jpg"))
    return names


def test_table_and_page_of_all_that_could_be_evaluated(tmp_path, pictures, monkeypatch, capsys):
    out = tmp_path / "out"
    ious = {"A": [90.0, 10.0, 50.0], "B": [80.0, 70.0, 20.0]}

    def evaluated(entry, datasets, folder, args):
        if entry.name == "broken":
            return False
        record(folder / entry.name, dict(zip(pictures, ious[entry.name], strict=True)), "AB".index(entry.name))
        return datasets == [DATASET]

    monkeypatch.setattr(evaluate_list, "_evaluate", evaluated)
    args = arguments(tmp_path, "".join(f"- {{name: {n}, config: toybox/san}}\n" for n in ("A", "broken", "B")))
    with pytest.raises(UserError, match="could not be evaluated: broken"):
        evaluate_list.run_from_arguments(args)
    table = (out / "table.md").read_text()
    printed = capsys.readouterr().out
    assert table in printed and "broken" not in table and f"{out}/pictures-{DATASET}.html" in printed
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[1] == ["A", "60.0", "40.0", "48.0", "50.0", "0.50", "700"]
    assert rows[2][:4] == ["B", "61.0", "40.0", "49.0"]
    page = (out / f"pictures-{DATASET}.html").read_text()
    # Every picture once, with both systems beside it and the ground truth.
    assert page.count("<figcaption>A</figcaption>") == page.count("<figcaption>B</figcaption>") == 3
    assert page.count("<figcaption>ground truth</figcaption>") == 3 and "harmonic mean or mIoU: B" in page
    with Image.open(out / f"pictures-{DATASET}.webp") as sheet:
        # Image, two systems, ground truth, below each other; three pictures of 12 x 16 side by side.
        assert sheet.height >= 4 * 120 and sheet.width >= 3 * 160


def test_pictures_are_ranked_by_all_systems():
    records = {
        name: {"images": [{"file_name": f, "miou": v} for f, v in values.items()]}
        for name, values in {"A": {"x": 10.0, "y": 90.0, "z": None}, "B": {"x": 50.0, "y": 70.0, "z": 5.0}}.items()
    }
    assert [image["miou"] for image in mean_images(records)] == [30.0, 80.0, None]


def test_columns_without_figures_are_left_out():
    one = {
        "figures": {"mIoU": 12.34, "mIoU-seen": None},
        "num_images": 4,
        "seconds_of_images": 2.0,
        "memory": {"peak_rss_mib": 10.0, "peak_gpu_mib": 99.6},
    }
    assert comparison({"X|Y": one}).endswith("| X\\|Y | 12.3 | 0.50 | 100 |")
    assert comparison({"X": one}).splitlines() == [
        "|  | mIoU | s / picture | peak MiB |",
        "|---|---:|---:|---:|",
        "| X | 12.3 | 0.50 | 100 |",
    ]

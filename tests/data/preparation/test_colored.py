"""Labels in colours: to indices by classes.json, whole or not at all, going on where a run was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.config import load_config
from twostage.data.catalogue.folders import folder_infos
from twostage.data.labels import read_label_map
from twostage.data.loaders import check_dataset
from twostage.data.preparation import colored
from twostage.data.preparation.colored import prepare_folder
from twostage.data.preparation.verify import verify
from twostage.data.views import dataset_view
from twostage.errors import UserError

COLORS = [[200, 40, 40], [0, 90, 200], [0, 90, 201]]
VOID = [255, 255, 255]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`mine` with train/ and val/, its labels in colours but for one; `indices` beside it has what they mean."""
    root = tmp_path / "mine"
    rng = np.random.default_rng(0)
    palette = np.array([*COLORS, VOID], np.uint8)
    for split, names in (("train", "abc"), ("val", "de")):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        (tmp_path / "indices" / split).mkdir(parents=True)
        for name in names:
            indices = rng.integers(0, 4, (7, 9))
            Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8)).save(
                root / "images" / split / f"{name}.jpg"
            )
            indices_there = np.where(indices == 3, 255, indices).astype(np.uint8)
            Image.fromarray(indices_there).save(tmp_path / "indices" / split / f"{name}.png")
            colors = palette[indices]
            if name == "b":  # transparency says nothing
                colors = np.concatenate([colors, np.full((7, 9, 1), 9, np.uint8)], axis=-1)
            stored = indices_there if name == "e" else colors
            Image.fromarray(stored).save(root / "labels" / split / f"{name}.png")
    write_classes(root)
    return root


def write_classes(root: Path, **extra: object) -> None:
    classes = [{"name": name, "color": color} for name, color in zip(("sofa", "cat", "lamp"), COLORS, strict=True)]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore_colors": [VOID], **extra}))


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def check_indices(folder: Path, dtype: str = "L") -> None:
    for path in (folder.parent / "indices").rglob("*.png"):
        made = folder / "labels" / path.relative_to(folder.parent / "indices")
        assert np.array_equal(read_label_map(made), read_label_map(path)) and Image.open(made).mode == dtype


def test_colours_become_indices(folder: Path) -> None:
    before = contents(folder / "labels")
    report = prepare_folder(folder, workers=2)
    assert (report.written, report.kept, report.broken) == (4, 1, [])
    check_indices(folder)
    # The originals are kept, but the one that needed nothing, and nothing else is left.
    assert contents(folder / colored.ORIGINALS) == {k: v for k, v in before.items() if k != "val/e.png"}
    assert sorted(p.name for p in folder.iterdir()) == ["classes.json", "images", "labels", "labels_color"]
    assert all(not verify(info, workers=1).problems for info in folder_infos([str(folder)]))
    again = prepare_folder(folder, workers=1)
    assert (again.written, again.kept) == (0, 5)
    check_indices(folder)


def test_unknown_colours_are_named_and_change_nothing(folder: Path) -> None:
    path = folder / "labels" / "train" / "c.png"
    pixels = np.array(Image.open(path))
    pixels[0, :4], pixels[1, 0] = (1, 2, 3), (9, 9, 9)
    Image.fromarray(pixels).save(path)
    other = folder / "labels" / "val" / "d.png"
    pixels = np.array(Image.open(other))
    pixels[:2, 0] = (1, 2, 3)
    Image.fromarray(pixels).save(other)
    before = contents(folder / "labels")
    with pytest.raises(UserError) as caught:
        prepare_folder(folder, workers=2)
    text = str(caught.value)
    assert text.startswith("2 colours in") and '"ignore_colors"' in text
    assert f"[1, 2, 3]: 6 pixels in 2 file(s), the first is '{path}'; [9, 9, 9]: 1 pixels in 1 file(s)" in text
    assert contents(folder / "labels") == before and not (folder / colored.ORIGINALS).exists()
    # The cure that the message names; what was converted under the old list is made anew.
    write_classes(folder, ignore_colors=[VOID, [1, 2, 3], [9, 9, 9]])
    assert prepare_folder(folder, workers=2).written == 4
    assert (read_label_map(path)[0, :4] == 255).all() and read_label_map(path)[1, 0] == 255


def test_broken_files_can_be_left_out(folder: Path) -> None:
    (folder / "labels" / "train" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"a\.png' can't be read.*--skip-broken"):
        prepare_folder(folder, workers=1)
    report = prepare_folder(folder, workers=1, skip_broken=True)
    assert report.written == 3 and len(report.broken) == 1
    assert not (folder / "labels" / "train" / "a.png").exists()
    assert (folder / colored.ORIGINALS / "train" / "a.png").read_bytes() == b"nothing"


def test_a_stopped_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []
    write = colored.write_labels

    def stopping(path: Path, labels: np.ndarray) -> None:
        if len(done) == 2:
            raise RuntimeError("stopped")
        done.append(path)
        write(path, labels)

    before = contents(folder / "labels")
    monkeypatch.setattr(colored, "write_labels", stopping)
    with pytest.raises(RuntimeError, match="stopped"):
        prepare_folder(folder, workers=1)
    assert contents(folder / "labels") == before
    # Stopped again while the files are put in place: between moving an original away and its label map in.
    kept = [(path, path.stat().st_mtime_ns) for path in done]
    monkeypatch.setattr(colored, "write_labels", write)
    moves: list[Path] = []
    move = colored._move

    def stopping_move(file: Path, target: Path) -> None:
        if len(moves) == 3:
            raise RuntimeError("stopped")
        moves.append(file)
        move(file, target)

    monkeypatch.setattr(colored, "_move", stopping_move)
    with pytest.raises(RuntimeError, match="stopped"):
        prepare_folder(folder, workers=1)
    first = folder / "labels" / done[0].relative_to(folder / ".labels_partial")
    assert first.stat().st_mtime_ns == kept[0][1], "not converted a second time"
    monkeypatch.setattr(colored, "_move", move)
    prepare_folder(folder, workers=1)
    check_indices(folder)
    assert len(contents(folder / colored.ORIGINALS)) == 4


def test_wide_labels(folder: Path) -> None:
    write_classes(folder, ignore_label=65535)
    prepare_folder(folder, workers=1)
    made = folder / "labels" / "train" / "a.png"
    expected = read_label_map(folder.parent / "indices" / "train" / "a.png")
    assert Image.open(made).mode == "I;16"
    assert np.array_equal(read_label_map(made, largest=65535), np.where(expected == 255, 65535, expected))


def test_unprepared_labels_name_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"`twostage prepare {folder.resolve()}`"
    cfg = load_config(opts=["DATASETS.FOLDERS", f"('{folder}',)", "DATASETS.TEST", "('mine_val',)"])
    with pytest.raises(UserError, match="labels of 'mine_val' are colour pictures") as caught:
        check_dataset(dataset_view(cfg, "mine_val"))
    assert command in str(caught.value)
    verdicts = [verify(info, workers=1) for info in folder_infos([str(folder)])]
    assert any(command in p and "1 of their colours are not in classes.json" in p for v in verdicts for p in v.problems)
    prepare_folder(folder, workers=1)
    check_dataset(dataset_view(cfg, "mine_val"))


def test_classes_without_colours(folder: Path) -> None:
    (folder / "classes.json").unlink()
    (folder / "classes.txt").write_text("sofa\ncat\nlamp\n")
    with pytest.raises(UserError, match=r"gives no colours; write classes\.json"):
        prepare_folder(folder, workers=1)
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b"], "palette": [[1, 1, 1], [1, 1, 1]]}))
    with pytest.raises(UserError, match=r"colour \[1, 1, 1\] is given twice"):
        prepare_folder(folder, workers=1)
    (folder / "classes.json").write_text(json.dumps({"classes": ["a"], "palette": [[1, 1, 1]], "ignore_colors": [300]}))
    with pytest.raises(UserError, match="ignore_colors must be a list of colours"):
        prepare_folder(folder, workers=1)


def test_palette_pictures_are_mapped_by_their_colours(folder: Path, tmp_path: Path) -> None:
    """As image editors save them: the numbers of the colours differ from file to file."""
    for path in sorted((folder / "labels").rglob("*.png")):
        with Image.open(path) as picture:
            if picture.mode != "L":
                picture.convert("RGB").quantize(colors=4, method=Image.Quantize.MEDIANCUT).save(path)
    before = [read_label_map(path) for path in sorted((folder / "labels").rglob("*.png"))]
    prepare_folder(folder, workers=1)
    after = [read_label_map(path) for path in sorted((folder / "labels").rglob("*.png"))]
    truth = [read_label_map(path) for path in sorted((tmp_path / "indices").rglob("*.png"))]
    assert all(np.array_equal(a, b) for a, b in zip(after, truth, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(before, truth, strict=True))

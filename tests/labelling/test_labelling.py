"""`twostage label`: the same rows however the work is cut, stopped and shared; broken pictures are rows with a reason."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from twostage.commands.main import run
from twostage.config.finding import find_config
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.errors import UserError
from twostage.labelling import local
from twostage.labelling.formats import parse_formats
from twostage.labelling.labeller import Labeller
from twostage.labelling.progress import Progress
from twostage.labelling.shards import Output, read_rows
from twostage.labelling.sources import units_hash, units_of
from twostage.labelling.units import Item

WORDS = ("grass", "sky", "water", "blue star")
PICTURES = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine toybox pictures and a broken one, whose name comes in between."""
    folder = tmp_path_factory.mktemp("pictures")
    for plan, scene in render(plan_scenes(3, "open", PICTURES), 3, "open"):
        Image.fromarray(scene.image).save(folder / f"{plan.name}.png")
    (folder / "open_00004a.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    return Labeller(config_file=find_config("toybox/maskclip"), opts=opts, words=WORDS, with_maps=True)


@pytest.fixture(scope="module")
def rows(folder: Path, labeller: Labeller) -> list[dict[str, Any]]:
    """Of all pictures, in one go."""
    (unit,) = units_of(str(folder), shard_size=100)
    return list(labeller(unit.items()))


def without_maps(rows: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "label_map"} for row in rows]


def test_segments_are_those_of_the_segmenter(folder: Path, labeller: Labeller, rows: list[dict[str, Any]]) -> None:
    row = rows[0]
    result = labeller.segmenter(folder / row["path"], WORDS, others=None)
    assert (row["height"], row["width"]) == result.labels.shape
    assert {s["name"]: s["area"] / result.labels.size for s in row["segments"]} == result.areas()
    scores = result.scores().numpy()
    for segment in row["segments"]:
        run_lengths = {"size": list(result.labels.shape), "counts": segment["counts"].encode()}
        mask = coco_mask.decode(run_lengths).astype(bool)
        np.testing.assert_array_equal(mask, result.mask(segment["name"]))
        if segment["area"] > 200:
            assert segment["score"] == pytest.approx(float(scores[segment["label"]][mask].mean()), abs=0.03)


def test_broken_picture_is_a_row_with_its_reason(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == PICTURES + 1
    (broken,) = [row for row in rows if row["error"]]
    assert broken["path"] == "open_00004a.png"
    assert "can't be read" in broken["error"] and broken["segments"] == [] and broken["label_map"] is None


@pytest.mark.parametrize("count", [1, 3])
def test_rows_do_not_depend_on_processes(
    count: int, tmp_path: Path, folder: Path, labeller: Labeller, rows: list[dict[str, Any]]
) -> None:
    output = Output(tmp_path, ("jsonl", "png"))
    units = units_of(str(folder), shard_size=2)
    for number in reversed(range(count)):
        local.work(labeller, units, output, local.Rank(number, count))
    assert list(read_rows(tmp_path)) == without_maps(rows)
    with tarfile.open(tmp_path / "part-00000.png.tar") as archive:
        member = archive.extractfile(rows[0]["path"])
        assert member is not None and member.read() == rows[0]["label_map"]


def test_label_maps_of_one_stem_do_not_take_each_others_place(tmp_path: Path) -> None:
    paths = (
        "a.jpg",
        "a.png",
        "b/a.jpg",
        "c.jpg",
        "a.png",
        "a.png",
        "d.parquet/0",
        "d.parquet/1",
        "t.tar/../../e.png",
        "/f.png",
    )
    rows = [{"path": path, "label_map": path.encode(), "error": ""} for path in paths]
    Output(tmp_path, ("png",)).write(0, rows, ("sky",))
    with tarfile.open(tmp_path / "part-00000.png.tar") as archive:
        names = archive.getnames()
    assert names[:6] == ["a.png", "a.png.png", "b/a.png", "c.png", "a.png_2.png", "a.png_3.png"]
    assert names[6:] == ["d.parquet/0.png", "d.parquet/1.png", "t.tar/e.png", "f.png"]


def test_rows_are_read_in_the_order_of_their_parts_whatever_their_names(tmp_path: Path) -> None:
    output = Output(tmp_path, ("jsonl",))
    # Letters that end a line elsewhere, but not in JSON.
    paths = {99999: "a\u2028b.png", 100000: "c\x85d.png"}
    for number, path in paths.items():
        output.write(number, [{"path": path, "error": ""}], ("sky",))
    assert [row["path"] for row in read_rows(tmp_path)] == list(paths.values())


def test_names_that_are_no_text_can_be_written(tmp_path: Path, labeller: Labeller) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'label'")
    rows = list(labeller([Item("caf\udce9.png", str(tmp_path / "caf\udce9.png"))]))
    Output(tmp_path, ("parquet", "jsonl", "coco", "png")).write(0, rows, WORDS)
    (row,) = read_rows(tmp_path)
    assert row["path"] == r"caf\udce9.png" and "does not exist" in row["error"]


def test_a_source_with_other_pictures_is_another(tmp_path: Path, folder: Path) -> None:
    hashes = {units_hash(units_of(str(folder), shard_size=size)) for size in (2, 2, 3)}
    for file in sorted(folder.iterdir())[1:]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    words = ["label", str(tmp_path), "--words", "sky", "--system", "toybox/maskclip", "--others", "none"]
    words += ["--format", "jsonl", "--output", str(tmp_path / "out")]
    run(words)
    (tmp_path / "another.png").write_bytes(file.read_bytes())
    assert len(hashes) == 2 and len(units_of(str(tmp_path), shard_size=1000)) == 1
    with pytest.raises(UserError, match=r"another run \(other pictures\)"):
        run(words)


def test_killed_run_goes_on_with_the_same_rows(
    tmp_path: Path, folder: Path, labeller: Labeller, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    units, output = units_of(str(folder), shard_size=2), Output(tmp_path, ("jsonl", "coco"))
    label = Labeller.__call__
    made = []

    def die_now_and_then(self: Labeller, items: Any) -> Any:
        for row in label(self, items):
            made.append(row["path"])
            if len(made) in (2, 5, 8):
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Labeller, "__call__", die_now_and_then)
    kills = 0
    for _ in range(10):
        try:
            local.work(labeller, units, output, local.Rank())
            break
        except KeyboardInterrupt:
            kills += 1
            assert not list(tmp_path.glob("*.tmp"))
    assert kills == 3
    assert list(read_rows(tmp_path)) == without_maps(rows)
    # Shards that were complete were not made again.
    assert len(made) < 2 * len(rows)


def test_tar_and_parquet_hold_the_same_pictures(
    tmp_path: Path, folder: Path, labeller: Labeller, rows: list[dict[str, Any]]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'label'")
    import pyarrow

    files = sorted(folder.iterdir())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for file in files:
            archive.add(file, arcname=file.name)
    content = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    parquet.write_table(pyarrow.table({"image": content}), tmp_path / "b.parquet", row_group_size=4)
    units = units_of(str(tmp_path), shard_size=1)
    assert [len(unit) for unit in units] == [10, 4, 4, 2]
    found = [row for unit in units for row in labeller(unit.items())]
    assert [row["segments"] for row in found] == 2 * [row["segments"] for row in rows]
    assert found[0]["path"] == f"a.tar/{files[0].name}" and found[10]["path"] == "b.parquet/0"
    output = Output(tmp_path / "out", ("parquet",))
    output.write(0, rows, WORDS)
    assert list(read_rows(output.folder)) == without_maps(rows)


def test_command(tmp_path: Path, folder: Path, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder), "--words", "; ".join(WORDS), "--system", "toybox/maskclip", "--others", "none"]
    words += ["--shard-size", "4", "--format", "jsonl,coco", "--output", str(tmp_path / "out")]
    run(["label", *words, "--dry-run"])
    assert "10 pictures; of 10 tried, 1 can't be read" in capsys.readouterr().out
    run(["label", *words])
    assert "10 pictures in" in capsys.readouterr().out
    found = list(read_rows(tmp_path / "out"))
    assert [row["segments"] for row in found] == [row["segments"] for row in rows]
    coco = json.loads((tmp_path / "out/part-00001.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == [row["path"] for row in rows[4:8] if not row["error"]]
    run(["label", *words])
    assert "3 of 3 shards are there already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"another run \(other names, vocabulary\)"):
        run(["label", words[0], "--words", "mud; sky", *words[3:]])


def test_labeller_is_picklable_and_its_hashes_stay(labeller: Labeller) -> None:
    assert labeller.segmenter is not None
    again = pickle.loads(pickle.dumps(labeller))
    assert again == labeller and again.model == labeller.model
    assert Labeller(config_file="", opts=(), words=("a", "b")).vocabulary != Labeller("", (), ("b", "a")).vocabulary


def test_launchers_say_which_process_this_is() -> None:
    assert local.rank_of({"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == (1, 4)
    with pytest.raises(UserError, match="RANK is 4"):
        local.rank_of({"RANK": "4", "WORLD_SIZE": "4"})


def test_every_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    started: list[tuple[int, int]] = []

    class Context:
        class Process:
            exitcode, is_alive, join, start = 0, bool, bool, bool

            def __init__(self, target: Any, args: tuple[Any, ...]) -> None:
                started.append((args[3].number, args[5]))

    monkeypatch.setattr(local.multiprocessing, "get_context", lambda kind: Context)
    # Machine 1 of torchrun's, with two launched processes of two each.
    for rank, place in ((2, 0), (3, 1)):
        monkeypatch.setattr("os.environ", {"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(place)})
        local.run(None, [], None, processes=2)  # type: ignore[arg-type]
    assert started == [(4, 0), (5, 1), (6, 2), (7, 3)]
    for _, number in [*started, (0, 6)]:
        local.use_own_gpu(number)
    assert chosen == [0, 1, 2, 3, 2]


def test_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter(range(0, 1000, 10))
    progress = Progress(100, every=15, clock=lambda: next(now))
    progress.add(5, 0)
    progress.add(5, 1)
    assert "10 of 100 pictures, 0.25 per second, 6 min left, 1 broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "names no pictures"), (b"caf\xe9.png", "is no UTF-8 text"), (None, "does not exist")],
)
def test_sources_that_are_none(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        units_of(str(path), shard_size=2)


def test_unknown_format() -> None:
    with pytest.raises(UserError, match="did you mean 'parquet'"):
        parse_formats("parket")

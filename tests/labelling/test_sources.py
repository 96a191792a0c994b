"""Sources as they are met: damaged shards, shards below shards, own results beside them, row groups larger than memory."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twostage.errors import UserError
from twostage.labelling import tars
from twostage.labelling.shards import SETTINGS
from twostage.labelling.sources import units_hash, units_of
from twostage.labelling.units import Item


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_tar(path: Path, pictures: int, mode: str = "w") -> bytes:
    """A shard in webdataset's layout; returns its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for number in range(pictures):
            for name, content in ((f"{number:05d}.png", png(number)), (f"{number:05d}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def items_of(source: Path, shard_size: int = 3) -> list[Item]:
    return [item for unit in units_of(str(source), shard_size=shard_size) for item in unit.items()]


def test_a_damaged_tar_gives_what_can_be_read_and_one_reason(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "b.tar", 6)
    write_tar(tmp_path / "a.tar", 2)
    with tarfile.open(tmp_path / "b.tar") as archive:
        members = archive.getmembers()
    # Cut off in a picture, in a header, between header and picture; a header overwritten, which tarfile takes for the end.
    picture, header = members[6].offset_data + 5, members[6].offset
    damaged = {
        "in a picture": (content[:picture], 3),
        "in a header": (content[: header + 100], 3),
        "behind a header": (content[: members[6].offset_data], 3),
        "a header of noise": (content[:header] + b"\xab" * 512 + content[header + 512 :], 3),
        "the first header": (b"\xab" * 512 + content[512:], 0),
        "empty": (b"", 0),
    }
    for name, (part, readable) in damaged.items():
        (tmp_path / "b.tar").write_bytes(part)
        units = units_of(str(tmp_path), shard_size=1)
        found = list(units[1].items())
        assert [item.name for item in found[:-1]] == [f"b.tar/{number:05d}.png" for number in range(readable)], name
        assert all(item.picture == png(number) for number, item in enumerate(found[:-1])), name
        assert found[-1].name == "b.tar" and f"damaged behind {readable} pictures" in found[-1].reason, name
        assert len(found) <= len(units[1]) <= len(found) + 1 and not units[1].counted, name
    with pytest.raises(UserError, match=r"b\.tar' can't be read"):
        units_of(str(tmp_path / "b.tar"), shard_size=1)


def test_a_compressed_tar_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", 3, "w:gz")
    assert [item.picture for item in items_of(tmp_path / "a.tar")] == [png(0), png(1), png(2)]


def test_the_start_looks_into_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million pictures are a thousand shards, and every process of a run starts."""
    for number in range(12):
        write_tar(tmp_path / f"{number // 4}/{number:05d}.tar", 8)
    opened: list[str] = []
    look = tars._look

    def counting(path: Path) -> Any:
        opened.append(path.name)
        return look(path)

    monkeypatch.setattr(tars, "_look", counting)
    units = units_of(str(tmp_path), shard_size=1)
    assert len(opened) == 3 and len(units) == 12
    # Guessed from sizes, which are alike.
    assert sum(map(len, units)) == 96 and [unit.counted for unit in units].count(True) == 3
    names = [next(unit.items()).name for unit in units]
    assert names == [f"{number // 4}/{number:05d}.tar/00000.png" for number in range(12)]
    monkeypatch.setattr(tars, "_MEMBERS", 4)
    assert [len(unit) for unit in units_of(str(tmp_path), shard_size=1)] != [0] * 12


def test_shards_without_pictures_in_the_first_are_found(tmp_path: Path) -> None:
    for number in range(5):
        write_tar(tmp_path / f"{number}.tar", 4 if number == 3 else 0)
    assert [len(unit) for unit in units_of(str(tmp_path), shard_size=1)] == [0, 0, 0, 4, 0]


def test_a_source_is_known_again_by_names_and_sizes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        for number in range(4):
            write_tar(tmp_path / folder / f"{number}.tar", 2)
    one, two = (units_hash(units_of(str(tmp_path / folder), shard_size=1)) for folder in ("one", "two"))
    assert one == two
    write_tar(tmp_path / "two/2.tar", 30)
    assert units_hash(units_of(str(tmp_path / "two"), shard_size=1)) != one


def test_own_results_are_no_source_and_loose_pictures_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    for name in ("part-00000.png.tar", "part-00000.parquet"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / SETTINGS).write_text("{}")
    assert [item.name for item in items_of(tmp_path)] == ["a.png"]
    write_tar(tmp_path / "below/part-1.tar", 1)
    assert [item.name for item in items_of(tmp_path)] == ["below/part-1.tar/00000.png"]
    assert "1 pictures beside its tar or parquet files" in caplog.text


def test_lists_name_files_from_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "list.txt").write_text("sub/a.png\r\n\n~/b.png\n/c.png\n")
    paths = [item.picture for item in items_of(tmp_path / "list.txt")]
    assert paths == [str(tmp_path / "sub/a.png"), str(tmp_path / "b.png"), "/c.png"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/~odd.png").write_bytes(png(0))
    assert items_of(tmp_path / "folder") == [Item("~odd.png", str(tmp_path / "folder/~odd.png"))]


def test_damaged_row_groups_give_rows_with_a_reason(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'label'")
    import pyarrow

    table = pyarrow.table({"image": [png(number) for number in range(60)], "path": [f"{n}.png" for n in range(60)]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=30, use_dictionary=False, write_page_checksum=True)
    place = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = place.data_page_offset + place.total_compressed_size // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    found = items_of(path)
    assert len(found) == 60 and [item.picture for item in found[:30]] == [png(number) for number in range(30)]
    assert found[0].name == "0.png"
    assert all(item.reason or item.picture == png(at) for at, item in enumerate(found))
    # A file of which nothing can be read is a row beside others, and an error alone.
    path.write_bytes(content[:100])
    with pytest.raises(UserError, match=r"a\.parquet' can't be read"):
        units_of(str(path), shard_size=1)
    parquet.write_table(table, tmp_path / "b.parquet")
    found = items_of(tmp_path)
    assert len(found) == 61 and found[0].name == "a.parquet" and "can't be read" in found[0].reason


def test_columns_that_hold_no_bytes_are_no_pictures(tmp_path: Path) -> None:
    """A column of paths would be read from this machine's disk."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'label'")
    import pyarrow

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"image": ["/etc/hostname.png"], "n": [1]}), path)
    with pytest.raises(UserError, match=r"columns image \(string\), n \(int64\); name the one"):
        units_of(str(path), shard_size=1)
    parquet.write_table(pyarrow.table({"image": ["a.png", "b.png"], "jpg": [png(1), None]}), path)
    found = items_of(path)
    assert found[0].picture == png(1) and "row 1 of" in found[1].reason


def test_what_is_written_for_settings_can_be_read(tmp_path: Path) -> None:
    """Of `labelling.json`, whose reader compares with what it would write itself."""
    from twostage.labelling.shards import Output

    output = Output(tmp_path, ("jsonl",))
    output.begin({"names": ("a", "b"), "n": 1})
    output.begin({"names": ["a", "b"], "n": 1})
    assert json.loads((tmp_path / SETTINGS).read_text())["formats"] == ["jsonl"]
    with pytest.raises(UserError, match=r"another run \(other n\)"):
        output.begin({"names": ["a", "b"], "n": 2})
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(UserError, match="can't be read"):
        output.begin({"names": ["a", "b"], "n": 1})

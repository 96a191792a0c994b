"""Files are whole or not there; what killed processes leave goes with the next run, what living ones write stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import twostage
from twostage import leftovers
from twostage.checkpoint.checkpointer import Checkpointer
from twostage.errors import UserError
from twostage.files import atomic_path, check_writable, temporary_folder, write_new_text, write_text
from twostage.labelling.shards import Output
from twostage.leftovers import remove_leftovers

_WRITES_AND_WAITS = (
    "import sys, time\n"
    "from twostage.files import atomic_path\n"
    "with atomic_path(sys.argv[1]) as path:\n"
    "    path.write_text('half')\n"
    "    print('written', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no question whether a process lives")
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WRITES_AND_WAITS, str(tmp_path / name)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        return process

    killed, living = start("killed.json"), start("living.json")
    try:
        killed.kill()
        killed.wait()
        for name in (".mine.tmp", ".mine.0123.tmp", "notes.tmp", ".hidden"):
            (tmp_path / name).touch()
        with atomic_path(tmp_path / "own.json") as own:
            own.touch()
            assert len(list(tmp_path.iterdir())) == 7
            check_writable(tmp_path)
            left = {path.name for path in tmp_path.iterdir()}
            assert own.name in left and len(left) == 6
            assert [name for name in left if "living" in name] and not [name for name in left if "killed" in name]
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


def test_a_temporary_folder_goes_with_its_block_and_with_its_killed_process(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "a.onnx") as folder:
        (folder / "b").touch()
        remove_leftovers(tmp_path)
        assert (folder / "b").exists() and folder.parent == tmp_path
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    (folder / "b").touch()
    os.utime(folder, (0, 0))
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_temporaries_of_other_machines_go_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_host", lambda: "elsewhere")
    path = tmp_path / leftovers.temporary_name("a.json")
    monkeypatch.undo()
    for age, stays in ((0.9, True), (1.1, False)):
        path.touch()
        os.utime(path, (time.time() - age * 86400,) * 2)
        remove_leftovers(tmp_path)
        assert path.exists() == stays


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no question whether a process lives")
def test_temporaries_of_an_earlier_process_of_the_same_number_go(tmp_path: Path) -> None:
    """As in a container, whose processes have the same few numbers after every restart."""
    path = tmp_path / leftovers.temporary_name("a.json")
    path.touch()
    remove_leftovers(tmp_path)
    assert path.exists()
    os.utime(path, (leftovers._STARTED - 10,) * 2)
    remove_leftovers(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["草" * 80 + ".json", "x" * 250 + ".json", "caf\udce9" * 20 + ".json", "a\nb.json"])
def test_any_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("names of bytes that are no text")
    write_text(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / leftovers.temporary_name(name)).touch()
    os.utime(tmp_path / leftovers.temporary_name(name), (0, 0))
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are POSIX")
def test_a_file_larger_than_allowed_is_an_error_and_not_there(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from twostage.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(sys.argv[1], 'x' * 5000)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert UserError.__name__ in found.stderr and "make room" in found.stderr and not list(tmp_path.iterdir())


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to files, in order: "wait NAME" for the disk, "name NAME" where a temporary becomes NAME."""
    done: list[str] = []
    fsync, link = os.fsync, os.link
    replace = Path.replace

    def waited(number: int) -> None:
        name = Path(f"/proc/self/fd/{number}").readlink().name
        done.append(f"wait {'temporary' if name.endswith('.tmp') else name}")
        fsync(number)

    def renamed(path: Path, target: str | Path) -> Path:
        done.append(f"name {Path(target).name}")
        return replace(path, target)

    def linked(path: Path, target: str | Path) -> None:
        done.append(f"name {Path(target).name}")
        link(path, target)

    monkeypatch.setattr(os, "fsync", waited)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "replace", renamed)
    return done


@pytest.mark.skipif(sys.platform != "linux", reason="looks up names in /proc")
def test_content_is_on_the_disk_before_the_name(order: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_text(folder / "a.json", "{}")
    assert order == ["wait temporary", "name a.json", "wait out"]
    order.clear()
    write_new_text(folder / "b.json", "{}")
    assert order == ["wait temporary", "name b.json"]
    order.clear()
    write_text(folder / "picture.json", "{}", durable=False)
    assert order == ["name picture.json"]
    order.clear()
    with pytest.raises(ZeroDivisionError), atomic_path(folder / "c.json") as path:
        path.write_text(str(1 / 0))
    assert not order


@pytest.mark.skipif(sys.platform != "linux", reason="looks up names in /proc")
def test_what_took_long_is_on_the_disk_before_what_says_so(order: list[str], tmp_path: Path) -> None:
    """A checkpoint before it is called the last one, a shard of labels before it is called done."""
    Checkpointer(torch.nn.Linear(2, 2), str(tmp_path)).save("model_final")
    assert order == [
        *("wait temporary", "name model_final.pth", f"wait {tmp_path.name}"),
        *("wait temporary", "name last_checkpoint", f"wait {tmp_path.name}"),
    ]
    order.clear()
    Output(tmp_path, ["jsonl"]).write(0, [], ["cat"])
    names = [entry.removeprefix("name ") for entry in order if entry.startswith("name ")]
    assert [name.rpartition(".")[2] for name in names] == ["jsonl", "done"]
    assert [entry.split()[0] for entry in order] == ["wait", "name", "wait"] * 2


def test_only_files_of_single_pictures_are_not_waited_for() -> None:
    """Of each a run writes thousands, and another file lists them or says that they are done."""
    root = Path(twostage.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if re.search(r"durable(: bool)? ?= ?False", path.read_text(encoding="utf-8")) and path.name != "files.py"
    }
    assert found == {
        "adapters/labelme.py",
        "adapters/yolo.py",
        "data/labels.py",
        "data/preparation/ade20k_full.py",
        "data/preparation/jobs.py",
        "data/segment_maps.py",
        "results/panoptic.py",
        "results/saving.py",
        "results/segmentation.py",
        "systems/two_stage/ovseg/adaptation/pairs.py",
    }

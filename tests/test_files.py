"""Files are whole or not there; what killed processes leave goes with the next run, what living ones write stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from twostage import files
from twostage.errors import UserError
from twostage.files import atomic_path, check_writable, remove_leftovers, temporary_folder, write_text

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
    monkeypatch.setattr(files, "_host", lambda: "elsewhere")
    path = tmp_path / files._temporary_name("a.json")
    monkeypatch.undo()
    for age, stays in ((0.9, True), (1.1, False)):
        path.touch()
        os.utime(path, (time.time() - age * 86400,) * 2)
        remove_leftovers(tmp_path)
        assert path.exists() == stays


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no question whether a process lives")
def test_temporaries_of_an_earlier_process_of_the_same_number_go(tmp_path: Path) -> None:
    """As in a container, whose processes have the same few numbers after every restart."""
    path = tmp_path / files._temporary_name("a.json")
    path.touch()
    remove_leftovers(tmp_path)
    assert path.exists()
    os.utime(path, (files._STARTED - 10,) * 2)
    remove_leftovers(tmp_path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["草" * 80 + ".json", "x" * 250 + ".json", "caf\udce9" * 20 + ".json", "a\nb.json"])
def test_any_name_that_a_file_can_have(name: str, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("names of bytes that are no text")
    write_text(tmp_path / name, "whole", durable=True)
    assert (tmp_path / name).read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / files._temporary_name(name)).touch()
    os.utime(tmp_path / files._temporary_name(name), (0, 0))
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

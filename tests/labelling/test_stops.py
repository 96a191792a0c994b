"""Runs that are killed, that meet and that are only tried."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from twostage.commands.main import run
from twostage.errors import EXIT_TERMINATED, UserError
from twostage.labelling import local
from twostage.labelling.shards import SETTINGS, Output

_PARENT = (
    "import multiprocessing, time\n"
    "from twostage.machine import end_with_parent\n"
    "def work():\n"
    "    end_with_parent()\n"
    "    time.sleep(60)\n"
    "if __name__ == '__main__':\n"
    "    context = multiprocessing.get_context('spawn')\n"
    "    child = context.Process(target=work)\n"
    "    child.start()\n"
    "    print('started', flush=True)\n"
    "    time.sleep(60)\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by POSIX signals")
def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    # The output is at its end when nobody holds it any more, the child neither.
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "started\n"
    parent.kill()
    assert parent.communicate(timeout=50)[0] == ""


_TOGETHER = (
    "import multiprocessing, os, signal, sys, time\n"
    "from twostage.machine import start_together\n"
    "if __name__ == '__main__':\n"
    "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "    context = multiprocessing.get_context('spawn')\n"
    "    children = [context.Process(target=time.sleep, args=(60,)) for _ in range(2)]\n"
    "    start_together(children)\n"
    "    try:\n"
    "        os.killpg(0, signal.SIGINT)\n"
    "        time.sleep(60)\n"
    "    except KeyboardInterrupt:\n"
    "        time.sleep(1)\n"
    "        print('interrupted', [child.is_alive() for child in children])\n"
    "    for child in children:\n"
    "        child.terminate()\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="groups of processes are POSIX")
def test_ctrl_c_is_left_to_the_process_that_started_the_others(tmp_path: Path) -> None:
    """A terminal sends it to all of them, also while they import, and each would print a traceback."""
    script = tmp_path / "together.py"
    script.write_text(_TOGETHER)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, start_new_session=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupted [True, True]\n", "")


def test_what_failed_is_said() -> None:
    local._say_what_failed([0, 0])
    with pytest.raises(UserError, match=r"1 of 3 processes were killed \(signal 9; .* the same command goes on"):
        local._say_what_failed([0, -9, 2])
    for codes, expected in (([0, 2], 2), ([1, EXIT_TERMINATED, -9], EXIT_TERMINATED)):
        with pytest.raises(SystemExit) as caught:
            local._say_what_failed(codes)
        assert caught.value.code == expected


def test_of_two_runs_that_begin_at_the_same_time_one_is_refused(tmp_path: Path) -> None:
    """Many times, since it matters who comes between whose look and whose writing."""
    for number in range(40):
        output, barrier, refused = Output(tmp_path / str(number), ("jsonl",)), threading.Barrier(2), []

        def begin(words: str, output: Output = output, barrier: threading.Barrier = barrier, refused=refused) -> None:
            barrier.wait()
            try:
                output.begin({"names": [words]})
            except UserError as error:
                refused.append((words, str(error)))

        threads = [threading.Thread(target=begin, args=(words,)) for words in ("sky", "mud")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ((words, reason),) = refused
        there = json.loads((output.folder / SETTINGS).read_text())
        assert there["names"] != [words] and "another run (other names)" in reason
        assert [path.name for path in output.folder.iterdir()] == [SETTINGS]


def test_a_trial_leaves_nothing_and_a_source_is_one_however_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (40 * number, 90, 10)).save(f"pictures/{number}.png")
    words = ["--words", "sky; mud", "--system", "toybox/maskclip", "--others", "none", "--format", "jsonl"]
    run(["label", "pictures", *words, "--output", "out", "--dry-run"])
    assert "3 pictures; of 3 tried" in capsys.readouterr().out and not Path("out").exists()
    run(["label", "pictures/", *words, "--output", "out"])
    left = Path("out/.part-00000.jsonl.00000000.nobody.1-1.tmp")
    left.touch()
    run(["label", str(tmp_path / "pictures"), *words, "--output", "out"])
    assert "1 of 1 shards are there already" in capsys.readouterr().out and left.exists()
    monkeypatch.setenv("RANK", "two")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="RANK is two and WORLD_SIZE is 4"):
        run(["label", "pictures", *words, "--output", "out"])
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UserError, match="--engine ray is started once"):
        run(["label", "pictures", *words, "--output", "out", "--engine", "ray"])

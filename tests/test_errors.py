"""How mistakes reach the user."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from twostage.errors import UserError, find_user_error, near_names, run_cli


def test_user_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise UserError("the culprit; the way out")

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the culprit; the way out\n"


def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv("TWOSTAGE_TRACEBACK", "1")
    with pytest.raises(UserError):
        run_cli(lambda: (_ for _ in ()).throw(UserError("x")))


def test_other_errors_stay_what_they_are():
    with pytest.raises(ZeroDivisionError):
        run_cli(lambda: 1 / 0)


@pytest.mark.parametrize("kind", ["UserError", "DamagedFileError"])
def test_found_in_the_text_of_a_spawned_worker(kind):
    text = f"-- Process 1 terminated --\nTraceback ...\n{UserError.__module__}.{kind}: image 'a.jpg' is broken\n"
    assert str(find_user_error(RuntimeError(text))) == "image 'a.jpg' is broken"
    assert find_user_error(RuntimeError("other")) is None


def test_found_as_the_cause():
    try:
        try:
            raise UserError("inner")
        except UserError as error:
            raise RuntimeError("outer") from error
    except RuntimeError as error:
        assert str(find_user_error(error)) == "inner"


def test_ctrl_c_is_a_line_and_ends_the_process_by_the_signal():
    """A shell's loop around the tool then ends as well; what is registered for the end still runs."""
    script = (
        "import atexit, os, signal; from twostage.errors import run_cli; signal.signal(2, signal.default_int_handler);"
        "atexit.register(print, 'cleaned'); run_cli(lambda: os.kill(os.getpid(), signal.SIGINT))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "cleaned\n", "interrupted\n")


def test_near_names():
    assert "'toybox_train'" in near_names("toybox_trian", ["toybox_train", "coco"])
    assert near_names("zzz", ["toybox_train"]) == ""


SCRIPT = "from twostage.errors import run_cli\nrun_cli(lambda: [print('\u732b', i) for i in range(60000)])"


def run_script(tail: str, **env: str) -> subprocess.CompletedProcess:
    """The script's first line by a shell pipe, and the script's own exit code."""
    command = f'{sys.executable} -c "$CODE" {tail}; exit ${{PIPESTATUS[0]}}'
    return subprocess.run(["bash", "-c", command], env={**os.environ, **env, "CODE": SCRIPT}, capture_output=True)


def test_a_terminal_without_the_letters():
    done = run_script("| cat", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith(rb"\u732b 0") and not done.stderr


def test_a_reader_that_goes_away():
    done = run_script("| head -1", PYTHONIOENCODING="utf-8")
    assert done.returncode == 141 and not done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_wherever_it_shows(capsys, number):
    def main():
        try:
            raise OSError(number, os.strerror(number), "out/log.txt")
        except OSError as error:
            raise RuntimeError("a library's own words") from error

    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        f"error: can't write 'out/log.txt': {os.strerror(number)}; make room or choose another output folder\n"
    )


def test_log_lines_without_a_reader_or_room_are_left_out():
    code = (
        "import logging, os\nfrom twostage.errors import run_cli\n"
        "def main():\n    logging.basicConfig(stream=open('/dev/full', 'w'))\n    logging.warning('x')\n    print('done')\n"
        "run_cli(main)\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Traceback" not in done.stderr

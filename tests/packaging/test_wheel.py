"""`pip install` gives a package that imports, loads a system and segments, with no second step, with or without upstream."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twostage
from twostage.data.toybox.dataset import plan_scenes, render

ROOT = Path(__file__).parents[2]
SUBSET = ROOT / "third_party" / "detectron2" / "detectron2"

SEGMENT = """
import json, sys
import twostage, detectron2, open_clip
picture, labels = sys.argv[1:]
segmenter = twostage.load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])
result = segmenter(picture, json.loads(open("words.json").read()))
result.save(labels, "scene")
print(json.dumps({"twostage": twostage.__file__, "detectron2": detectron2.__file__, "version": detectron2.__version__}))
"""

# Every process writes which Detectron2 it has found.
PROCESSES = """
import sys
from pathlib import Path
from twostage.commands.launch import launch

def say(folder):
    import detectron2
    from detectron2.utils import comm
    Path(folder, f"rank{comm.get_rank()}").write_text(detectron2.__file__)

if __name__ == "__main__":
    launch(say, processes=2, device="cpu", args=(sys.argv[1],))
"""


def test_nothing_is_left_out(wheel: Path) -> None:
    """Every file of the package that is no code, every config and the whole subset; nothing of tests and tools."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    package = (path for path in (ROOT / "twostage").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    expected = {str(path.relative_to(ROOT).as_posix()) for path in package}
    expected |= {
        f"twostage/configs/{p.relative_to(ROOT / 'configs').as_posix()}" for p in ROOT.glob("configs/**/*.yaml")
    }
    expected |= {
        f"twostage/third_party/detectron2/detectron2/{path.relative_to(SUBSET).as_posix()}"
        for path in SUBSET.rglob("*.py")
    }
    inside = {name for name in inside if ".dist-info/" not in name}
    assert inside == expected


def segment(run: Callable[..., str], folder: Path) -> dict[str, str]:
    """Segment a toybox scene in `folder` by `run`; the labels must be those of the checkout. Returns where things lie."""
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    words = ["striped blue star", "grass", "red dotted circle, disc", "sky", "sand"]
    Image.fromarray(scene.image).save(folder / "scene.png")
    (folder / "words.json").write_text(json.dumps(words))
    found = json.loads(run("-c", SEGMENT, "scene.png", "labels").splitlines()[-1])
    ours = twostage.load("toybox/maskclip", device="cpu", opts=["MODEL.CLIP.TEXT_CACHE", ""])
    expected = ours(scene.image, words).labels
    labels = np.asarray(Image.open(folder / "labels" / "scene_labels.png"))
    assert len(np.unique(expected)) > 1 and (labels == expected).mean() > 0.999
    assert Path(found["twostage"]).is_relative_to(folder)
    return found


def test_the_wheel_brings_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        text = archive.read(name).decode()
    assert "[console_scripts]\ntwostage = twostage.commands.main:main\n" in text


@pytest.mark.slow
def test_the_command_in_an_empty_folder(environment: Callable[..., str], tmp_path: Path) -> None:
    """One word on a toybox picture, by the installed script."""
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    Image.fromarray(scene.image).save(tmp_path / "scene.png")
    scripts = Path(environment("-c", "import sysconfig; print(sysconfig.get_path('scripts'))").strip())
    words = ["scene.png", "--words", "grass", "--others", "sky, sand", "--system", "toybox/maskclip", "--output", "out"]
    printed = environment(scripts / "twostage", "segment", *words, "--set", "MODEL.CLIP.TEXT_CACHE", "")
    assert "competing with your words: sky, sand" in printed
    labels = np.asarray(Image.open(tmp_path / "out" / "scene_labels.png"))
    assert labels.shape == scene.labels.shape and set(np.unique(labels)) <= {0, 255}


@pytest.mark.slow
def test_without_upstream(environment: Callable[..., str], tmp_path: Path) -> None:
    # A plain folder of this name in the current one is no package.
    (tmp_path / "detectron2").mkdir()
    found = segment(environment, tmp_path)
    assert found["version"].endswith("+twostage") and "third_party" in Path(found["detectron2"]).parts


@pytest.mark.slow
def test_beside_upstream(environment: Callable[..., str], tmp_path: Path) -> None:
    """An installed Detectron2 is the one that is imported; a copy of ours under another version stands for it."""
    packages = Path(environment("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    shutil.copytree(SUBSET, packages / "detectron2")
    (packages / "detectron2" / "__init__.py").write_text('__version__ = "0.6"\n')
    found = segment(environment, tmp_path)
    assert found["version"] == "0.6" and Path(found["detectron2"]).parent == packages / "detectron2"


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]])
def test_processes_find_the_subset(environment: Callable[..., str], tmp_path: Path, start: list[str]) -> None:
    """Spawned ones and those of torchrun."""
    (tmp_path / "processes.py").write_text(PROCESSES)
    environment(*start, "processes.py", str(tmp_path))
    for rank in range(2):
        assert "third_party" in Path((tmp_path / f"rank{rank}").read_text()).parts

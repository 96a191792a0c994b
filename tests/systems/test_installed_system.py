"""Somebody else's package with a system: the files of docs/add_a_system.md, installed by pip, used from a child process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.data.toybox.dataset import plan_scenes, render

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_a_system.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
(EXAMPLE,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    write(source, FILES)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(target), str(source)], check=True)
    return target


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def python(code: str, *sites: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in `folder` with the packages of `sites` installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*sites, ROOT)))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_example_is_short() -> None:
    assert set(FILES) == {"blurclip/card.py", "blurclip/model.py", "blurclip/blurclip_toybox.yaml", "pyproject.toml"}
    assert sum(text.count("\n") for text in FILES.values()) < 120


CHECKS = """
import sys
import numpy as np, torch
import twostage
from twostage.commands.evaluate import published_figures
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.cards import all_cards, recognise_checkpoint
assert "blurclip.model" not in sys.modules
card = all_cards()[-1]
assert card.name == "BlurCLIP"

# Its keys are checked like ours.
wrong = {"MODEL.BLURCLIP.SID": "did you mean 'MODEL.BLURCLIP.SIDE'", "MODEL.BLURCLIP.SIDE": "allowed: 1, 3, 5"}
for key, message in wrong.items():
    try:
        load_config("", [key, "4"])
    except UserError as error:
        assert message in str(error), error
    else:
        raise AssertionError(key)

# A checkpoint in its official names loads, and every other system says whose it is.
segmenter = twostage.load("blurclip_toybox")
model = segmenter.model
with torch.no_grad():
    model.scale.fill_(7.0)
official = model.checkpoint_table().to_official(model.state_dict())
torch.save(official, "blurclip.pth")
assert recognise_checkpoint(official)[0] is card
again = twostage.load("blurclip_toybox", weights="blurclip.pth")
assert again.model.scale == 7 and all(map(torch.equal, again.model.parameters(), model.parameters()))
try:
    twostage.load("toybox/sed", weights="blurclip.pth")
except UserError as error:
    assert "is one of BlurCLIP, but the config builds SED; use a config of BlurCLIP: blurclip_toybox" in str(error), error
else:
    raise AssertionError("SED took it")

# Its own yaml file elsewhere; one patch is no neighbourhood, so its scores are MaskCLIP's.
with open("mine.yaml", "w") as file:
    file.write(open(twostage.api.find_config("blurclip_toybox")).read().replace("  CLIP:", "  BLURCLIP: {SIDE: 1}\\n  CLIP:"))
mine = twostage.load("mine.yaml")
words = ["grass", "plain red circle", "water"]
scores = mine("scene.png", words).scores()
plain = twostage.load("toybox/maskclip").model
with torch.no_grad():
    batch = [{"image": torch.from_numpy(mine.encode("scene.png").pixels).permute(2, 0, 1)}]
    features = plain.encode(plain.preprocess(batch))[0].features
    text = mine.model.embed_vocabulary(twostage.vocabulary.Vocabulary.from_words(words))
small = torch.einsum("cd,dhw->chw", text, features)
full = torch.nn.functional.interpolate(small[None], size=scores.shape[1:], mode="bilinear")[0]
torch.testing.assert_close(scores, full, rtol=1e-4, atol=1e-5)
assert not torch.allclose(segmenter("scene.png", words).scores() / 7, full, rtol=1e-4, atol=1e-3)
"""


@pytest.mark.slow
def test_installed_system(site: Path, tmp_path: Path) -> None:
    """Known keys, a model, its checkpoint, a config inside and one outside the package, and the page's last example."""
    ((_, scene),) = render(plan_scenes(0, "open", 1), 0, "open")
    Image.fromarray(np.asarray(scene.image)).save(tmp_path / "scene.png")
    done = python(CHECKS, site, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = python(EXAMPLE, site, folder=tmp_path)
    assert done.returncode == 0 and "grass" in done.stdout, done.stderr
    done = python(
        "from twostage.commands.systems import all_cards, table; print(table(all_cards()))", site, folder=tmp_path
    )
    assert "| BlurCLIP (docs 2026) | training-free | `blurclip_toybox` | an example |" in done.stdout, done.stderr


NAME = ('name="BlurCLIP"', 'name="Other"')
MODULE = ("blurclip.model", "other.model")
ARCHITECTURE = ('"BlurClip"', '"Other"')
CONFIGS = ("blurclip_toybox", "other_toybox")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([MODULE], r"two systems are called 'BlurCLIP' \((blurclip|other)\.model and (blurclip|other)\.model\)"),
        ([MODULE, NAME], r"Other \(other\.model\) and BlurCLIP .* have the MODEL\.META_ARCHITECTURE 'BlurClip'"),
        ([MODULE, NAME, ARCHITECTURE], r"Other \(other\.model\) and BlurCLIP .* have a config 'blurclip_toybox'"),
        (
            [MODULE, NAME, ARCHITECTURE, CONFIGS],
            r"BlurCLIP has a config key 'MODEL\.BLURCLIP\.SIDE', which Other has already",
        ),
        (
            [MODULE, NAME, ARCHITECTURE, CONFIGS, ("BLURCLIP", "SAN")],
            r"Other has a config key 'MODEL\.SAN\.\w+', which SAN has already",
        ),
        (
            [MODULE, NAME, ARCHITECTURE, CONFIGS, ("BLURCLIP", "BACKBONE")],
            r"Other has a config key 'MODEL\.BACKBONE\.\w+', which Detectron2 has already",
        ),
        (
            [MODULE, NAME, ARCHITECTURE, CONFIGS, ("CN()", "CN().NOTHING")],
            r"Other can't add its config keys: AttributeError: NOTHING; update or uninstall it",
        ),
    ],
    ids=["name", "architecture", "config", "key", "our key", "Detectron2's key", "broken keys"],
)
def test_what_two_systems_claim_names_both(
    site: Path, tmp_path: Path, changes: list[tuple[str, str]], message: str
) -> None:
    card = FILES["blurclip/card.py"]
    for old, new in changes:
        assert old in card
        card = card.replace(old, new)
    info = "other-1.0.dist-info"
    write(tmp_path, {"other/card.py": card, f"{info}/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"})
    write(tmp_path, {f"{info}/entry_points.txt": "[twostage.systems]\nother = other.card:CARD\n"})
    code = "from twostage.config import load_config\nfrom twostage.errors import run_cli\nrun_cli(load_config)"
    done = python(code, tmp_path, site, folder=tmp_path)
    assert done.returncode == 2 and re.search(message, done.stderr), done.stderr

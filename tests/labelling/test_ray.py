"""Both engines give the same rows: a Ray of two workers on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from twostage.config.finding import find_config
from twostage.data.toybox.dataset import plan_scenes, render
from twostage.labelling import local, ray_engine
from twostage.labelling.labeller import Labeller
from twostage.labelling.shards import Output, read_rows
from twostage.labelling.sources import units_of

pytest.importorskip("ray", reason="needs the extra 'ray'")


@pytest.mark.slow
def test_both_engines_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's workers step back for everything else on a machine, and would wait for the tests that run beside this one.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    for plan, scene in render(plan_scenes(3, "open", 6), 3, "open"):
        Image.fromarray(scene.image).save(tmp_path / f"{plan.name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    labeller = Labeller(config_file=find_config("toybox/maskclip"), opts=opts, words=("grass", "sky", "blue star"))
    units = units_of(str(tmp_path), shard_size=2)
    outputs = [Output(tmp_path / name, ("jsonl",)) for name in ("local", "ray")]
    local.run(labeller, units, outputs[0], processes=1)
    ray_engine.run(labeller, units, outputs[1], processes=2)
    rows = [list(read_rows(output.folder)) for output in outputs]
    assert rows[0] == rows[1] and len(rows[0]) == 7

"""Checkpoint files: read without running anything, and refused with the reason."""

from __future__ import annotations

import collections
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from twostage.checkpoint.safe_loading import load_checkpoint_file, load_tensors
from twostage.errors import UserError


class Attack:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_never_runs(tmp_path, legacy):
    trap = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    torch.save({"model": {"w": torch.zeros(1)}, "extra": Attack(trap)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"evil\.pth.*pickled objects"):
        load_checkpoint_file(path)
    assert not trap.exists()


class DictConfig:
    """Stands for OmegaConf's: settings, and the types that they may have."""

    def __init__(self):
        self.content = {"lr": 0.1, "types": [Any, dict, collections.defaultdict, int]}


DictConfig.__module__ = "omegaconf.dictconfig"


@pytest.fixture
def omegaconf(monkeypatch):
    """Its modules, as far as pickling asks for them."""
    for name in ("omegaconf", "omegaconf.dictconfig"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["omegaconf.dictconfig"], "DictConfig", DictConfig, raising=False)
    return monkeypatch


def test_settings_of_omegaconf_beside_the_tensors_are_not_read(tmp_path, omegaconf):
    path = tmp_path / "checkpoint.pth"
    metrics = collections.defaultdict(float, best=0.5)
    run = {"model": {"w": torch.ones(2)}, "optimizer": {"state": {0: {"step": 1}}}, "metrics": metrics}
    torch.save(run | {"config": DictConfig()}, path)
    omegaconf.undo()
    assert "omegaconf" not in sys.modules
    assert load_tensors(path).keys() == {"w"} and torch.equal(load_tensors(path)["w"], torch.ones(2))


def test_nothing_runs_in_a_file_with_settings(tmp_path, omegaconf):
    path, trap = tmp_path / "evil.pth", tmp_path / "executed"
    torch.save({"model": {"w": torch.ones(2)}, "config": DictConfig(), "extra": Attack(trap)}, path)
    with pytest.raises(UserError, match=r"io\.open.*could run code"):
        load_checkpoint_file(path)
    assert not trap.exists()
    torch.save({"weights": {"w": torch.ones(2)}, "config": DictConfig()}, path)
    with pytest.raises(UserError, match=r"holds none of 'state_dict', 'model'"):
        load_checkpoint_file(path)


def test_plain_pickles_are_refused_by_name(tmp_path):
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(UserError, match=r"zoo\.pkl.*safetensors"):
        load_checkpoint_file(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    tensors = {"w": torch.randn(1000)}
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"half.*(truncated|damaged)"):
        load_checkpoint_file(path)


def test_missing_empty_and_foreign(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint_file(tmp_path / "none.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match="is empty"):
        load_checkpoint_file(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"text\.pth"):
        load_checkpoint_file(tmp_path / "text.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint_file(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="no model weights"):
        load_tensors(tmp_path / "nothing.pth")


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_layouts(tmp_path, wrapper, prefix):
    state = {f"{prefix}a.weight": torch.ones(2), f"{prefix}b": torch.zeros(3)}
    torch.save({wrapper: state, "iteration": 7} if wrapper else state, tmp_path / "x.pth")
    tensors = load_tensors(tmp_path / "x.pth")
    assert sorted(tensors) == ["a.weight", "b"] and torch.equal(tensors["a.weight"], torch.ones(2))


def test_changed_bits_are_noticed(tmp_path):
    """torch reads an archive without looking at its check sums; a file written without them is read."""
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(4).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth' is damaged"):
        load_checkpoint_file(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(1000)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load_tensors(path)["w"], torch.ones(1000))


def test_every_third_bit_of_an_archive(tmp_path):
    """Wherever a bit is flipped, in numbers, names, headers or the list of parts: the same tensors, or an error."""
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(3)}, path)
    content = path.read_bytes()
    same = 0
    for place in range(0, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            tensors = load_tensors(path)
        except UserError:
            continue
        assert list(tensors) == ["w"] and torch.equal(tensors["w"], torch.ones(3)), place
        same += 1
    # Padding, dates and the like are read over.
    assert 0 < same < 4 * len(content) / 3


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(3),
        pickle.dumps([1]),
        b"\x80\x02R.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02K\x01Q.",
        b"",
        b"\x80\x02].",
    ],
)
def test_nonsense_in_a_torchscript_archive(tmp_path, content):
    """A damaged pickle fails in any way, and every one of them is one sentence."""
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", content)
    with pytest.raises(UserError, match=r"script\.pt' is (truncated or damaged|no module)"):
        load_checkpoint_file(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({0: torch.ones(1)}, "a tensor called 0"),
        ({"w": torch.ones(2).to_sparse()}, "'w' without its numbers, or sparse"),
        ({"w": torch.ones(2, device="meta")}, "'w' without its numbers, or sparse"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path, tensors, message):
    torch.save({"model": tensors}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=message):
        load_tensors(tmp_path / "odd.pth")


def test_a_damaged_list_of_parts(tmp_path):
    """The names at the end of an archive are read before anything else."""
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(3)}, path)
    content = path.read_bytes()
    directory = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: directory + 46] + b"\xff\xfe" + content[directory + 48 :])
    with pytest.raises(UserError, match=r"weights\.pth' is (truncated or )?damaged"):
        load_checkpoint_file(path)


def anonymous_memory():
    """Bytes of this process that no file stands behind."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what memory is a file's")
def test_tensors_are_the_files_pages(tmp_path):
    """What is copied into a model is not held a second time; writing to a loaded tensor leaves the file as it is."""
    size = 32 * 2**20
    torch.save({"model": {"weight": torch.ones(size // 4)}}, tmp_path / "large.pth")
    before = anonymous_memory()
    weight = load_tensors(tmp_path / "large.pth")["weight"]
    assert weight.sum() == size // 4
    assert anonymous_memory() - before < size // 4
    weight.zero_()
    assert load_tensors(tmp_path / "large.pth")["weight"].sum() == size // 4

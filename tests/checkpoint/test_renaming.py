"""Renaming tables: both ways, everything accounted for."""

from __future__ import annotations

import pytest
import torch

from twostage.checkpoint.checkpointer import Checkpointer, load_weights
from twostage.checkpoint.renaming import CheckpointTable, Packed, Rename, check_complete
from twostage.checkpoint.signature import Signature
from twostage.errors import UserError

TABLE = CheckpointTable(
    system="Test",
    signatures=(Signature(("front.", "back.")),),
    renames=(
        Rename("front.blocks.{i}.", "trunk.{i}.", last=1),
        Rename("back.blocks.{i}.", "trunk.{i}.", first=2),
        Rename("back.proj", "proj"),
    ),
    dropped={r"criterion\..*": "made anew"},
    fresh={r"extra\..*": "trained here"},
)
OFFICIAL = ["front.blocks.0.w", "front.blocks.1.w", "back.blocks.0.w", "back.blocks.1.w", "back.proj"]
OURS = ["trunk.0.w", "trunk.1.w", "trunk.2.w", "trunk.3.w", "proj"]


def numbered(names):
    return {name: torch.tensor(float(i)) for i, name in enumerate(names)}


def test_both_ways():
    assert TABLE.to_ours(numbered([*OFFICIAL, "criterion.w"]), source="x") == numbered(OURS)
    assert TABLE.to_official(numbered(OURS)) == numbered(OFFICIAL)
    assert TABLE.recognises(OFFICIAL) and not TABLE.recognises(OURS)


def test_unknown_and_doubled_names():
    with pytest.raises(UserError, match=r"'back\.head', which no official Test"):
        TABLE.to_ours(numbered([*OFFICIAL, "back.head"]), source="x")
    with pytest.raises(UserError, match="two tensors"):
        TABLE.to_ours(numbered(["front.blocks.2.w", "back.blocks.0.w"]), source="x")
    assert TABLE.to_official(numbered(["extra.w"])) == {}
    with pytest.raises(KeyError):
        TABLE.to_official(numbered(["other.w"]))


PACKING = CheckpointTable(
    system="Test",
    signatures=(Signature(("blocks.",)),),
    packed=(Packed("blocks.{i}.qkv.", ("layers.{i}.q.", "layers.{i}.k.", "layers.{i}.v.")),),
    renames=(Rename("blocks.", "layers."),),
)


def test_packed_tensors_both_ways():
    official = {
        "blocks.0.qkv.weight": torch.arange(12.0).view(6, 2),
        "blocks.1.qkv.weight": -torch.arange(12.0).view(6, 2),
        "blocks.1.out.weight": torch.ones(2),
    }
    ours = PACKING.to_ours(official, source="x")
    wanted = {f"layers.{i}.{part}.weight" for i in (0, 1) for part in "qkv"}
    assert set(ours) == wanted | {"layers.1.out.weight"}
    assert ours["layers.0.k.weight"].tolist() == [[4, 5], [6, 7]] and ours["layers.1.v.weight"][1, 1] == -11
    # In whatever order ours come.
    back = PACKING.to_official(dict(reversed(ours.items())))
    assert set(back) == set(official) and all(torch.equal(back[name], official[name]) for name in official)


def test_a_packed_tensor_of_no_such_shape_is_told_by_the_shapes_of_its_parts():
    expected = {f"layers.0.{part}.weight": torch.zeros(2) for part in "qkv"}
    for wrong in (torch.tensor(1.0), torch.zeros(7)):
        ours = PACKING.to_ours({"blocks.0.qkv.weight": wrong}, source="x")
        with pytest.raises(UserError, match="does not fit this M"):
            check_complete(ours, expected, fresh=(), source="x", model="M")
    with pytest.raises(UserError, match=r"two tensors for 'layers\.0\.k\.weight'"):
        PACKING.to_ours({"blocks.0.k.weight": torch.zeros(2), "blocks.0.qkv.weight": torch.zeros(6)}, source="x")


def test_complete():
    check_complete(numbered(OURS), numbered([*OURS, "extra.w"]), fresh=TABLE.fresh, source="x", model="M")
    with pytest.raises(UserError, match=r"1 tensors missing \(first: 'proj'\), 1 unknown \(first: 'head'\)"):
        check_complete(numbered([*OURS[:4], "head"]), numbered(OURS), fresh=(), source="x", model="M")
    wrong = numbered(OURS) | {"proj": torch.zeros(3)}
    with pytest.raises(UserError, match=r"'proj' is \(3,\) in the file and \(\)"):
        check_complete(wrong, numbered(OURS), fresh=(), source="x", model="M")


def test_checkpoint_of_another_system_is_named():
    tensors = numbered(["clip_adapter.w", "sem_seg_head.predictor.query_embed.w", "backbone.w"])
    with pytest.raises(
        UserError, match=r"is one of OVSeg, but the config builds Linear; use a config of OVSeg: ovseg_swinb"
    ):
        load_weights(torch.nn.Linear(2, 2), tensors, "x.pth")


def test_checkpointer_round_trip(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    Checkpointer(model, str(tmp_path), optimizer=optimizer).save("first", iteration=4)
    other = torch.nn.Linear(3, 2)
    other_optimizer = torch.optim.AdamW(other.parameters())
    checkpointer = Checkpointer(other, str(tmp_path), optimizer=other_optimizer)
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file().endswith("first.pth")
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 4}
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(
        other_optimizer.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = torch.nn.Linear(3, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def full_disk(data, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="No space left"):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]

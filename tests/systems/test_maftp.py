"""MAFT+: transfer, dense features and losses against written-out forms, what is trained, which file fits which form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance.optimizer import trainable_table
from systems.masked_batch import batch
from torch import nn

from twostage.clip.towers.convnext import dense_embeddings
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.proposals.matching import MaskTargets
from twostage.proposals.position import sine_position_code
from twostage.systems.building import build_model
from twostage.systems.two_stage.maftp.losses import compensation_loss, mask_aware_loss, soft_iou, spread
from twostage.systems.two_stage.maftp.transfer import Transfer, dense_clip
from twostage.systems.two_stage.maftp.weights import checkpoint_table

CONFIGS = Path(__file__).parents[2] / "configs"
FULL = {"b-semantic": "maftp_convnextb", "l-semantic": "maftp_convnextl", "l-panoptic": "maftp_convnextl_panoptic"}

OWN_LOSSES = ("loss_mask_aware", "loss_compensation")


def toy(*opts: str):
    torch.manual_seed(0)
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", *opts)
    return build_model(load_config(str(CONFIGS / "toybox" / "maftp.yaml"), opts))


@pytest.mark.parametrize("form", ["semantic", "panoptic"])
def test_transfer_is_torchs_attention_and_its_norm_stands_where_the_form_says(form):
    torch.manual_seed(0)
    transfer = Transfer(width=16, heads=4, form=form)
    nn.init.normal_(transfer.linear.weight)
    nn.init.normal_(transfer.norm.bias)
    names, dense = torch.randn(5, 16), torch.randn(2, 16, 3, 4)
    cells = dense.flatten(2).mT
    keys = cells + sine_position_code((3, 4), 16, dense.device)
    found, _ = transfer.attention(names.expand(2, -1, -1), keys, cells)
    found = transfer.linear(found)
    wanted = transfer.norm(names + found) if form == "semantic" else names + transfer.norm(found)
    got = transfer(names, dense)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    # A name does not depend on the others.
    torch.testing.assert_close(transfer(names[2:4], dense), got[:, 2:4], rtol=1e-4, atol=1e-5)


def test_the_panoptic_form_starts_at_the_text():
    names = torch.randn(3, 16)
    moved = Transfer(width=16, heads=4, form="panoptic")(names, torch.randn(2, 16, 3, 4))
    torch.testing.assert_close(moved, names.expand(2, -1, -1))


def test_scrambled_cells_are_rows_of_the_memory():
    visual = toy("MODEL.CLIP.PRETRAINED", "").clip.visual
    channels = visual.trunk.num_features
    res5 = torch.randn(2, channels, 3, 4).contiguous(memory_format=torch.channels_last)
    rows = torch.cat([image.reshape(-1).view(12, channels) for image in res5])
    wanted = visual.head(visual.trunk.head(rows[..., None, None])).view(2, 3, 4, -1).permute(0, 3, 1, 2)
    torch.testing.assert_close(dense_clip(visual, res5, "scrambled"), wanted, rtol=1e-4, atol=1e-5)
    aligned = dense_clip(visual, res5, "aligned")
    torch.testing.assert_close(aligned, dense_embeddings(visual, res5))
    assert not torch.allclose(aligned, wanted, atol=1e-2)


def test_mask_aware_loss_compares_scores_with_overlaps():
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[:, :2] = True
    logits = torch.full((3, 4, 4), -20.0)
    logits[0, :2], logits[1, :1] = 20.0, 20.0
    overlap = soft_iou(logits, truth)
    torch.testing.assert_close(overlap, torch.tensor([[1.0, 0.5, 0.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread(2 + overlap), torch.tensor([[1.0, 0.5, 0.0]]), atol=1e-4, rtol=0)
    scores = torch.tensor([[[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]]]).log().requires_grad_()
    masks = logits[None].clone().requires_grad_()
    loss = mask_aware_loss(scores, masks, [MaskTargets(classes=torch.tensor([0]), masks=truth)])
    torch.testing.assert_close(loss, torch.tensor((0.7**2 + 0 + 0.9**2) / 2 / 3), atol=1e-4, rtol=0)
    loss.backward()
    assert scores.grad.abs().sum() > 0 and masks.grad is None
    nothing = MaskTargets(classes=torch.zeros(0, dtype=torch.int64), masks=truth[:0])
    assert mask_aware_loss(scores, masks, [nothing]) == 0


def test_overlap_is_of_probabilities_resized():
    """Not of resized logits, whose probabilities are others along the edges."""
    logits = torch.tensor([[[6.0, -2.0], [6.0, -2.0]]])
    truth = torch.ones(1, 4, 4, dtype=torch.bool)
    full = F.interpolate(logits.sigmoid()[None], size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(soft_iou(logits, truth)[0, 0], full.sum() / 16)


@pytest.mark.parametrize("size", [(4, 4), (2, 5), (6, 3), (2, 2)])
def test_compensation_loss_by_loops(size):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, *size)

    def profile(features):
        maps, width = F.relu(features), size[1]
        if size[0] != size[1]:
            maps = F.interpolate(maps, size=(max(size),) * 2, mode="bilinear", align_corners=False)
        parts = []
        for scale in (1, 2, 4):
            kernel = max(1, width // scale)
            cells = maps.shape[-1] // kernel
            pooled = torch.stack(
                [
                    torch.stack(
                        [
                            maps[..., r * kernel : (r + 1) * kernel, c * kernel : (c + 1) * kernel].mean((-2, -1))
                            for c in range(cells)
                        ],
                        -1,
                    )
                    for r in range(cells)
                ],
                -2,
            )
            parts += [pooled.sum(2).flatten(1), pooled.sum(3).flatten(1)]
        return torch.cat(parts, 1)

    wanted = F.smooth_l1_loss(profile(student), profile(teacher))
    torch.testing.assert_close(compensation_loss(student, teacher), wanted)
    assert compensation_loss(student, student) == 0 < wanted


def test_what_each_loss_reaches():
    model = toy("MODEL.CLIP.PRETRAINED", "toybox").train()
    assert not model.clip.training
    losses = model(batch())
    assert {*OWN_LOSSES, "loss_ce"} <= set(losses)
    # At the start the trunk is the teacher.
    assert losses["loss_compensation"] == 0 and "teacher" not in "".join(model.state_dict())
    torch.stack([loss for name, loss in losses.items() if name not in OWN_LOSSES]).sum().backward()
    stem = next(model.clip.visual.trunk.stem.parameters())
    assert stem.grad is None and model.transfer.linear.weight.grad is None
    model.zero_grad(set_to_none=True)
    losses = model(batch())
    torch.stack(list(losses.values())).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == [] and stem.grad.abs().sum() > 0
    frozen = [n for n, p in model.clip.named_parameters() if p.requires_grad and not n.startswith("visual.trunk.st")]
    assert frozen == []


def test_a_picture_without_ground_truth_trains():
    losses = toy("MODEL.CLIP.PRETRAINED", "toybox").train()(batch(0))
    assert losses["loss_mask_aware"] == 0 and all(torch.isfinite(loss) for loss in losses.values())


def test_without_a_clip_to_hold_to_training_says_so():
    model = toy("MODEL.CLIP.PRETRAINED", "").train()
    with pytest.raises(UserError, match=r"MODEL\.MAFTP\.COMPENSATION_WEIGHT.*MODEL\.CLIP\.PRETRAINED"):
        model(batch())
    free = toy("MODEL.CLIP.PRETRAINED", "", "MODEL.MAFTP.COMPENSATION_WEIGHT", "0.0").train()
    assert "loss_compensation" not in free(batch())


def test_a_file_of_the_other_form_is_refused(reference):
    keys = json.loads((reference / "maftp" / "keys-l-panoptic.json").read_text())
    tensors = {name: torch.zeros(()).expand(key["shape"]) for name, key in keys.items()}
    with pytest.raises(UserError, match=r"panoptic transfer.*MODEL\.MAFTP\.TRANSFER is 'semantic'"):
        checkpoint_table("semantic").to_ours(tensors, source="maftp_l_pano.pth")
    # With the teacher or without it, with the weight of void or without.
    whole = checkpoint_table("panoptic").to_ours(tensors, source="maftp_l_pano.pth")
    few = {n: t for n, t in tensors.items() if not n.startswith(("backbone_t.", "criterion."))}
    assert checkpoint_table("semantic").to_ours(few, source="cut.pth").keys() == whole.keys()


@pytest.mark.parametrize("variant", FULL)
def test_optimizer_settings_are_the_published_ones(reference, variant, monkeypatch):
    """At full size, on a device without memory."""
    published = json.loads((reference / "maftp" / f"trainable-{variant}.json").read_text())
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    cfg = load_config(
        str(CONFIGS / f"{FULL[variant]}.yaml"),
        ("MODEL.DEVICE", "meta", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", ""),
    )
    with torch.device("meta"):
        model = build_model(cfg)
    table = {name: list(pair) for name, pair in trainable_table(model, model.checkpoint_table(), cfg).items()}
    assert table == {name: [round(pair[0], 9), pair[1]] for name, pair in published["trainable"].items()}
    assert len(parameter_settings(cfg, model)) == len(table)
    assert (published["schedule"]["max_iter"], published["base_lr"]) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR)
    weights = published["loss_weights"]
    assert (weights["ranking_loss"], weights["rc_loss"]) == (
        cfg.MODEL.MAFTP.MASK_AWARE_WEIGHT,
        cfg.MODEL.MAFTP.COMPENSATION_WEIGHT,
    )

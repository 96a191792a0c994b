"""Mask-Adapter: cheaper forms against the published ones, the masks it learns from, what is trained, where it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conformance.optimizer import trainable_table
from systems.masked_batch import batch
from torch import nn

from twostage.checkpoint.checkpointer import Checkpointer
from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.errors import UserError
from twostage.proposals.matching import MaskTargets
from twostage.systems.building import build_model
from twostage.systems.two_stage.heads import DenseCLIP
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps, adapted_embeddings, map_weights
from twostage.systems.two_stage.mask_adapter.mixing import PADDING, Mixing, most, overlaps, stacked
from twostage.systems.two_stage.mask_adapter.model import class_loss
from twostage.systems.two_stage.mask_adapter.regions import AdaptedRegions
from twostage.systems.two_stage.mask_adapter.weights import ADAPTER, checkpoint_table

CONFIGS = Path(__file__).parents[2] / "configs"
FULL = {
    f"{phase}{base}-{size}": f"mask_adapter_{phase.replace('-', '_')}{base}_convnext{size}"
    for phase in ("", "warmup-")
    for base, size in (("fcclip", "l"), ("maftp", "b"), ("maftp", "l"))
}


def toy(phase: str = "mixed", base: str = "fcclip", *opts: str):
    torch.manual_seed(0)
    keys = ("MODEL.MASK_ADAPTER.PHASE", phase, "MODEL.MASK_ADAPTER.BASE", base, "MODEL.MAFTP.HEADS", "4")
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "", *keys, *opts)
    return build_model(load_config(str(CONFIGS / "toybox" / "mask_adapter.yaml"), opts))


def adapter(**changes: int) -> MaskMaps:
    torch.manual_seed(0)
    sizes = {"embedding": 12, "width": 16, "mask_channels": 8, "maps": 4, "blocks": 2} | changes
    made = MaskMaps(**sizes)
    for block in made.blocks:
        nn.init.ones_(block.gamma)
    return made


def test_what_masks_share_is_computed_once():
    made, dense, masks = adapter(), torch.randn(2, 12, 3, 4), torch.rand(2, 5, 20, 30) > 0.5
    got = made(made.shared(dense), masks)
    # As published: every mask's embedding, plus the dense ones, projected.
    small = nn.functional.interpolate(masks.float(), size=(12, 16), mode="bilinear", align_corners=False)
    x = made.mask_proj(made.mask_encoder(small.flatten(0, 1)[:, None])) + dense.repeat_interleave(5, dim=0)
    x = made.fuse(x)
    for block in made.blocks:
        x = block(x)
    wanted = made.final(made.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).unflatten(0, (2, 5))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    weights = map_weights(got)
    assert weights.shape == (2, 5, 4, 12) and torch.allclose(weights.sum(dim=-1), torch.ones(2, 5, 4))


def test_chunks_change_nothing_and_every_mask_stands_alone():
    model = toy()
    visual, channels = model.clip.visual, model.clip.visual.trunk.num_features
    dense = DenseCLIP(torch.randn(1, channels, 3, 4), torch.randn(1, model.void_embedding.embedding_dim, 3, 4))
    masks = torch.rand(1, 7, 24, 32) > 0.5
    masks[:, 3], masks[:, 4] = False, True
    with torch.no_grad():
        whole = adapted_embeddings(model.adapter, visual, dense, masks)
        parts = adapted_embeddings(model.adapter, visual, dense, masks, chunk=3)
        alone = adapted_embeddings(model.adapter, visual, dense, masks[:, 3:4])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, whole[:, 3:4], rtol=1e-4, atol=1e-5)
    # Empty and full masks have embeddings of their own.
    assert torch.isfinite(whole).all() and not torch.allclose(whole[:, 3], whole[:, 4], atol=1e-4)


@torch.no_grad()
def test_as_a_region_classifier_it_sees_what_the_system_sees():
    model = toy().eval()
    images = model.preprocess(batch())
    encoded = model.encode(images)
    classify = AdaptedRegions(adapter=model.adapter, threshold=model.mixing.threshold, chunk=7)
    probabilities = encoded.outputs[0][0][0].sigmoid()
    probabilities[3] = 0
    # The adapter reads every eighth pixel, between two of the masks' own; at the image's size these are the same.
    probabilities = probabilities.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    regions = classify(model.clip.visual, images.tensor[0], probabilities)
    valid = (probabilities > 0.5).flatten(1).any(dim=1)
    assert regions.valid.equal(valid) and not valid[3] and not regions.embeddings[3].any()
    wanted = nn.functional.normalize(encoded.regions.embeddings[0], dim=-1)[valid]
    torch.testing.assert_close(regions.embeddings[valid], wanted, rtol=1e-4, atol=1e-5)


def adapter_on(*opts: str):
    quiet = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    return build_model(load_config(find_config("toybox/ovseg_adapter"), [*quiet, *opts])).eval()


@pytest.mark.parametrize("layout", ["ours", "official", "official warm-up"])
def test_the_region_classifier_takes_the_adapter_of_a_checkpoint(tmp_path, layout):
    trained = toy()
    for value in trained.adapter.parameters():
        nn.init.normal_(value)
    tensors = trained.state_dict()
    if layout != "ours":
        phase = "warmup" if layout.endswith("warm-up") else "mixed"
        table = checkpoint_table("fcclip", phase)
        kept = {n: t for n, t in tensors.items() if phase == "mixed" or n.startswith(("adapter.", "clip."))}
        if phase == "warmup":
            kept["warmup_void.weight"] = torch.zeros(1, trained.void_embedding.embedding_dim)
        tensors = table.to_official(kept)
        assert table.recognises(tensors)
    torch.save({"model": tensors}, tmp_path / "adapter.pth")
    model = adapter_on("MODEL.OVSEG.ADAPTER_WEIGHTS", str(tmp_path / "adapter.pth"))
    assert model.regions.adapter is model.adapter
    wanted = trained.adapter.state_dict()
    assert all(value.equal(wanted[name]) for name, value in model.adapter.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.adapter.parameters())


def test_a_region_classifier_without_a_fitting_adapter_is_refused(tmp_path):
    torch.save({"model": {"adapter.fuse.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    for opts, message in (
        (
            ("MODEL.OVSEG.ADAPTER_WEIGHTS", str(tmp_path / "other.pth")),
            r"does not fit this adapter \(MODEL\.MASK_ADAPTER\)",
        ),
        (("MODEL.MASK_ADAPTER.BASE", "maftp"), r"MODEL\.MASK_ADAPTER\.BASE is 'maftp', whose adapter reads a CLIP"),
        (("MODEL.CLIP.NAME", "toybox-vit"), r"'mask_adapter' needs a CLIP with a ConvNeXt"),
    ):
        with pytest.raises(UserError, match=message):
            adapter_on(*opts)


@torch.no_grad()
def test_pictures_that_are_no_multiple_of_the_stride_are_padded():
    model = adapter_on()
    for value in model.adapter.parameters():
        nn.init.normal_(value)
    picture, masks = torch.randn(3, 70, 100), torch.zeros(2, 70, 100)
    masks[0, :40, :40], masks[1, 30:] = 1, 1
    padded = nn.functional.pad(picture, (0, 28, 0, 26)), nn.functional.pad(masks, (0, 28, 0, 26))
    got = model.regions(model.clip.visual, picture, masks)
    assert not torch.allclose(got.embeddings[0], got.embeddings[1], atol=1e-3)
    torch.testing.assert_close(got.embeddings, model.regions(model.clip.visual, *padded).embeddings)


def mixing(**changes: float) -> Mixing:
    return Mixing(**({"truths": 3, "pairs": 2, "probability": 0.4, "overlap": 0.7, "threshold": 0.5} | changes))


def bars(count: int) -> MaskTargets:
    """Masks `[count, 8, 8 * count]`, side by side."""
    masks = torch.zeros(count, 8, 8 * count, dtype=torch.bool)
    for i in range(count):
        masks[i, :, 8 * i : 8 * i + 8] = True
    return MaskTargets(classes=torch.arange(count) + 10, masks=masks)


def test_ground_truth_that_is_empty_is_left_out_and_of_too_many_some_are_drawn():
    few, many = bars(6), bars(6)
    few.masks[[0, 2, 3, 4, 5]] = False
    drawn = [mixing().draw_truths(few), mixing().draw_truths(many)]
    assert drawn[0].classes.tolist() == [11] and len(drawn[1].classes) == 3 == most(drawn)
    assert all(many.masks[c - 10].equal(m) for c, m in zip(drawn[1].classes, drawn[1].masks, strict=True))
    masks, labels = stacked(drawn, 4)
    assert masks.shape == (2, 4, 8, 48)
    assert labels[0].tolist() == [11, PADDING, PADDING, PADDING] and not masks[0, 1:].any()


def test_pairs_meet_and_come_from_all_that_meet():
    target = bars(3)
    logits = torch.full((6, 8, 24), -5.0)
    logits[0, :, :8] = logits[1, :, :8] = 5.0  # both meet the first
    logits[2, :, 16:] = 5.0  # meets the third
    logits[3, :, 8:12] = 5.0  # half of the second, and none meets it
    torch.testing.assert_close(overlaps(logits > 0, target.masks)[3], torch.tensor([0.0, 0.5, 0.0]))
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        pairs = mixing(pairs=4).draw_pairs(logits, target)
        assert pairs.labels.tolist() == [10, 12, PADDING, PADDING]
        first = [q for q in range(2) if pairs.logits[0].equal(logits[q])]
        seen.update([tuple(first)])
        assert pairs.logits[1].equal(logits[2]) and pairs.truths[1].equal(target.masks[2].float())
        assert not pairs.logits[2:].any() and not pairs.truths[2:].any()
    logits[1, 0, 0] = 4.0
    chosen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        pair = mixing(pairs=4).draw_pairs(logits, target).logits[0]
        chosen.add(0 if pair.equal(logits[0]) else 1)
    assert chosen == {0, 1}
    # Of too many pairs some are drawn.
    assert {int(mixing(pairs=1).draw_pairs(logits, target).labels) for _ in range(20)} == {10, 12}
    nothing = MaskTargets(classes=target.classes[:0], masks=target.masks[:0])
    assert mixing().draw_pairs(logits, nothing).labels.tolist() == [PADDING, PADDING]


def test_a_place_without_a_pair_is_full_below_one_half_as_published():
    target = bars(1)
    pairs = mixing().draw_pairs(torch.full((1, 4, 4), -5.0), target)
    empty, partners = mixing().paired_masks(pairs, (8, 8))
    full, _ = mixing(threshold=0.45).paired_masks(pairs, (8, 8))
    assert not empty.any() and not partners.any() and full.all() and full.shape == (2, 8, 8)


def test_class_loss_counts_masks_with_a_label():
    logits = torch.randn(1, 3, 4)
    labels = torch.tensor([[2, PADDING, 0]])
    wanted = -(logits[0, 0].log_softmax(0)[2] + logits[0, 2].log_softmax(0)[0]) / 2
    torch.testing.assert_close(class_loss(logits, labels), wanted)
    assert class_loss(logits, torch.full_like(labels, PADDING)) == 0


@pytest.mark.parametrize(
    ("phase", "base", "beside"),
    [
        ("warmup", "fcclip", {"warmup_void.weight"}),
        ("warmup", "maftp", {"warmup_void.weight"}),
        ("mixed", "fcclip", {"void_embedding.weight"}),
        ("mixed", "maftp", set()),
    ],
)
def test_what_is_trained(phase, base, beside):
    model = toy(phase, base).train()
    assert not model.clip.training and not model.decoder.training
    losses = model(batch())
    assert set(losses) == ({"loss_ce"} if phase == "warmup" else {"loss_ce", "loss_cosine"})
    torch.stack(list(losses.values())).sum().backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if not n.startswith(ADAPTER)} == beside
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(torch.isfinite(loss) for loss in model(batch(0)).values())


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("base", ["fcclip", "maftp"])
def test_it_starts_from_its_base_and_from_the_warm_up(tmp_path, base, official):
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")
    under = build_model(load_config(str(CONFIGS / "toybox" / f"{base}.yaml"), opts))
    warm = toy("warmup", base)
    nn.init.normal_(warm.adapter.final.weight, std=3.0)
    for name, model in (("base", under), ("warm", warm)):
        if official:
            torch.save({"model": model.checkpoint_table().to_official(model.state_dict())}, tmp_path / f"{name}.pth")
        else:
            Checkpointer(model, str(tmp_path)).save(name)
    starts = (
        *("MODEL.MASK_ADAPTER.BASE_WEIGHTS", str(tmp_path / "base.pth")),
        *("MODEL.MASK_ADAPTER.WARMED_UP", str(tmp_path / "warm.pth")),
    )
    model = toy("mixed", base, *starts)
    state, warmed = model.state_dict(), warm.state_dict()
    assert all(torch.equal(state[n], t) for n, t in under.state_dict().items())
    assert all(torch.equal(state[n], warmed[n]) for n in state if n.startswith(ADAPTER))
    # The masks are the base's, their classes are not.
    with torch.no_grad():
        ours, theirs = (m.eval().predict([batch()[0]]) for m in (model, under))
    torch.testing.assert_close(ours.mask_logits, theirs.mask_logits)
    assert not torch.allclose(ours.class_logits, theirs.class_logits, atol=1e-2)


def test_a_base_that_is_none_is_refused(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not fit this MaskAdapter"):
        toy("mixed", "fcclip", "MODEL.MASK_ADAPTER.BASE_WEIGHTS", str(tmp_path / "other.pth"))


@pytest.mark.parametrize("variant", FULL)
def test_optimizer_settings_are_the_published_ones(reference, variant, monkeypatch):
    """At full size, on a device without memory."""
    published = json.loads((reference / "maskadapter" / f"trainable-{variant}.json").read_text())
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    keys = ("MODEL.DEVICE", "meta", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "")
    cfg = load_config(str(CONFIGS / f"{FULL[variant]}.yaml"), keys)
    with torch.device("meta"):
        model = build_model(cfg)
    table = {name: list(pair) for name, pair in trainable_table(model, model.checkpoint_table(), cfg).items()}
    assert table == published["trainable"]
    schedule = published["schedule"]
    assert (schedule["max_iter"], schedule["warmup_iters"]) == (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS)
    assert (schedule["name"], published["images_per_batch"]) == (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.IMS_PER_BATCH)
    if schedule["name"] == "WarmupMultiStepLR":
        assert list(cfg.SOLVER.STEPS) == schedule["steps"]

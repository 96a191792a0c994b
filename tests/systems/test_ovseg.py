"""OVSeg's own parts against closed forms, the whole model at toy size."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from conformance.optimizer import trainable_table

from twostage.clip.regions.encoder import distinct_masks
from twostage.clip.towers.vit import image_embeddings
from twostage.config import load_config
from twostage.errors import UserError
from twostage.predictions.prediction import UNLABELLED
from twostage.systems.two_stage.ensemble import ensemble_weights
from twostage.systems.two_stage.ovseg import model as ovseg_model
from twostage.systems.two_stage.ovseg.free_vocabulary import best_proposals
from twostage.systems.two_stage.ovseg.model import OVSeg
from twostage.systems.two_stage.ovseg.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

CONFIG = "configs/toybox/ovseg.yaml"
NAMES = ["grass", "plain red circle", "sky"]


def build(*options):
    torch.manual_seed(0)
    base = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.MASKFORMER.NUM_QUERIES", "9"]
    model = OVSeg(load_config(CONFIG, [*base, *options])).eval()
    with torch.no_grad():
        # Queries that differ, so that proposals do.
        model.generator.query_embed.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def batch(count=2):
    torch.manual_seed(1)
    sizes = [(70, 90), (64, 64)]
    return [
        {"image": torch.randint(0, 256, (3, *sizes[i]), dtype=torch.uint8), "vocabulary": NAMES} for i in range(count)
    ]


def test_ensemble_of_probabilities():
    generator, clip = torch.rand(1, 3, 4), torch.rand(1, 3, 4)
    valid = torch.tensor([[True, False, True]])
    joined = ensemble_weights(generator, clip, valid, 0.7)
    torch.testing.assert_close(joined[0, 0], generator[0, 0] ** 0.3 * clip[0, 0] ** 0.7)
    # An empty proposal keeps the generator's share alone, which makes its numbers larger.
    torch.testing.assert_close(joined[0, 1], generator[0, 1] ** 0.3)
    # zsseg's zero-shot setting: for classes that the generator knows, it counts more.
    seen = torch.tensor([True, False, False, True])
    split = ensemble_weights(generator, clip, valid, 0.7, seen)[0, 0]
    torch.testing.assert_close(split[1:3], joined[0, 0, 1:3])
    torch.testing.assert_close(split[[0, 3]], (generator**0.7 * clip**0.3)[0, 0, [0, 3]])
    alone = ensemble_weights(generator, clip, valid, 0)
    assert torch.equal(alone[0, 2], clip[0, 2]) and not alone[0, 1].any()


def test_best_proposals_vote_with_their_whole_row():
    weights = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.5, 0.2, 0.3], [0.95, 0.5, 0.6]]])
    valid = torch.tensor([[True, True, True, False]])
    assert best_proposals(weights, valid, 3)[0].any(dim=1).tolist() == [True, True, False, False]
    # The rival's pick is left out, unless another word picked the same.
    assert best_proposals(weights, valid, 1)[0].any(dim=1).tolist() == [True, False, False, False]
    torch.testing.assert_close(best_proposals(weights, valid, 1)[0, 0], weights[0, 0])
    assert not best_proposals(weights, torch.zeros(1, 4, dtype=torch.bool), 3).any()


def test_equal_masks_are_found():
    torch.manual_seed(0)
    masks = torch.rand(6, 20, 30) > 0.5
    masks[:, 0, 0] = masks[:, -1, -1] = masks[:, 0, -1] = True
    # Of the same box and area as mask 1, but another mask.
    masks[3] = masks[1]
    masks[3, 5, 5], masks[3, 6, 6] = True, False
    masks[1, 5, 5], masks[1, 6, 6] = False, True
    masks[4] = masks[2]
    masks[5] = masks[2]
    which, inverse = distinct_masks(masks, torch.tensor([[0, 0, 30, 20]]).expand(6, 4))
    assert which.tolist() == [0, 1, 2, 3]
    assert torch.equal(masks[which][inverse], masks)


def test_equal_masks_are_classified_once(model, monkeypatch):
    seen = []
    visual = model.clip.visual
    hook = visual.conv1.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    probabilities = torch.zeros(4, 64, 64)
    probabilities[0, :20] = 0.9
    probabilities[1, :20] = 0.8
    probabilities[3, 30:, 5:] = 0.9
    regions = model.regions(visual, torch.randn(3, 64, 64), probabilities)
    hook.remove()
    assert sum(seen) == 2
    assert regions.valid.tolist() == [True, True, False, True]
    assert torch.equal(regions.embeddings[0], regions.embeddings[1]) and not regions.embeddings[2].any()


def test_chunks_do_not_change_the_result(model):
    images = model.preprocess(batch(1))
    with torch.no_grad():
        whole = model.encode(images).regions
        small = build("MODEL.OVSEG.CROP_BATCH", "2").encode(images).regions
    assert torch.equal(whole.valid, small.valid) and whole.valid.sum() > 2
    torch.testing.assert_close(whole.embeddings, small.embeddings, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores_follow_the_formula(model):
    """Step by step as published, one image, one proposal at a time; crops of the side in toybox/ovseg.yaml."""
    image = batch(1)
    images = model.preprocess(image)
    text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
    encoded = model.encode(images)
    logits, queries = encoded.outputs[0]
    rows = torch.cat([text.text, F.normalize(model.void_embedding, dim=-1)])
    generator = (100 * queries[0] @ rows.T).softmax(dim=-1)[:, :-1]
    p = F.interpolate(logits, size=(96, 96), mode="bilinear", align_corners=False)[0, :, :70, :90].sigmoid()
    clip_image = model.clip_units(image[0]["image"])
    wanted = torch.zeros(len(NAMES), 70, 90)
    share = 0.95  # of CLIP, toybox/ovseg.yaml
    for index in range(len(p)):
        mask = p[index] > 0.4
        if mask.any():
            y, x = mask.nonzero().T
            box = (slice(None), slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
            crop = F.interpolate((clip_image * mask)[box][None], size=(64, 64), mode="bicubic", align_corners=False)
            feature = F.normalize(image_embeddings(model.clip.visual, crop)[0], dim=-1)
            row = generator[index] ** (1 - share) * (100 * feature @ text.text.T).softmax(dim=-1) ** share
        else:
            row = generator[index] ** (1 - share)
        wanted += row[:, None, None] * p[index]
    scores = model.decode(encoded, text).scores([(70, 90)])[0]
    torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-4)
    resized = F.interpolate(wanted[None], size=(41, 60), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(model.decode(encoded, text).scores([(41, 60)])[0], resized, rtol=1e-3, atol=1e-4)


def test_crops_have_clips_own_side_by_default():
    """As published; another one must be whole patches."""
    assert [build("MODEL.OVSEG.CROP_SIZE", wanted).regions.cropper.size for wanted in ("0", "96")] == [128, 96]
    with pytest.raises(UserError, match=r"MODEL.OVSEG.CROP_SIZE is 60.*8 pixels"):
        build("MODEL.OVSEG.CROP_SIZE", "60")


def test_seen_classes_are_those_of_the_training_set():
    zsseg = build("MODEL.OVSEG.SEEN_CLASSES_OF", "toybox_train")
    words = zsseg.embed_vocabulary(Vocabulary.from_words(["grass", "lava", "plain red circle"]))
    assert words.seen.tolist() == [True, False, True]
    with pytest.raises(UserError, match=r"toybox_trian.*did you mean"):
        build("MODEL.OVSEG.SEEN_CLASSES_OF", "toybox_trian")


def test_batch_equals_images_alone(model):
    with torch.no_grad():
        together = model(batch(2))
        # Padded alike, since queries look at padding.
        both = batch(2)
        both[0]["image"] = both[1]["image"] = batch(2)[0]["image"]
        same = model(both)
    assert [tuple(out["sem_seg_labels"].shape) for out in together] == [(70, 90), (64, 64)]
    assert (same[0]["sem_seg_labels"] == together[0]["sem_seg_labels"]).float().mean() > 0.999


def test_nothing_above_the_threshold_is_no_error():
    empty = build("MODEL.OVSEG.MASK_THRESHOLD", "1.0")
    with torch.no_grad():
        encoded = empty.encode(empty.preprocess(batch(1)))
        assert not encoded.regions.valid.any()
        assert empty(batch(1))[0]["sem_seg_labels"].shape == (70, 90)


def test_demo_leaves_pixels_unlabelled():
    demo = build(
        "MODEL.OVSEG.BEST_PROPOSALS_ONLY",
        "True",
        "MODEL.OVSEG.ENSEMBLE_WEIGHT",
        "0.0",
        "MODEL.OVSEG.MASK_THRESHOLD",
        "0.6",
    )
    entry = batch(1)
    entry[0]["vocabulary"] = ["grass"]
    with torch.no_grad():
        labels = demo(entry)[0]["sem_seg_labels"]
        scores = demo.predict(entry).scores([(70, 90)])[0]
    # One word has the rival "others" beside it.
    assert scores.shape == (2, 70, 90)
    assert set(labels.unique().tolist()) <= {0, UNLABELLED}
    assert torch.equal(labels == 0, (scores[0] > 0) & (scores[0] >= scores[1]))


def test_only_the_generator_trains(model):
    names = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"backbone", "generator", "class_embed", "void_embedding"}
    assert model.parameter_group("backbone.stem.conv1.weight") == "backbone"
    assert model.parameter_group("void_embedding") is None


def test_training_step_reaches_every_parameter():
    from detectron2.structures import Instances

    model = build().train()
    entries = batch(2)
    for entry in entries:
        size = tuple(entry["image"].shape[1:])
        entry["instances"] = Instances(size)
        entry["instances"].gt_classes = torch.tensor([0, 2])
        entry["instances"].gt_masks = torch.stack([torch.ones(size), torch.zeros(size)]).bool()
        entry["instances"].gt_masks[1, :20] = True
    losses = model(entries)
    assert set(losses) == {f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0", "_1")}
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # Before the first layer's cross-attention all queries hold zeros, so that its self-attention is idle.
    assert all(name.startswith("generator.layers.0.self_attention.") for name in without), without


def test_prompts_need_a_depth():
    with pytest.raises(UserError, match="MASK_PROMPT_DEPTH is 0"):
        load_config(CONFIG, ["MODEL.OVSEG.MASK_PROMPTS", "True"])


@pytest.mark.parametrize("variant", ["base", "large"])
@pytest.mark.parametrize("has_prompts", [True, False])
def test_every_official_tensor_is_accounted_for(reference, variant, has_prompts):
    keys = json.loads((reference / "ovseg" / f"keys-{variant}.json").read_text())
    tensors = {name: torch.zeros(()) for name in keys}
    table = checkpoint_table(has_prompts=has_prompts)
    assert table.recognises(tensors)
    ours = table.to_ours(tensors, source="keys")
    assert len(ours) == len(tensors) - 3 - (not has_prompts)
    left = set(keys) - set(table.to_official(ours))
    constants = {"criterion.empty_weight", "clip_adapter.pixel_mean", "clip_adapter.pixel_std"}
    assert left == constants | (set() if has_prompts else {"clip_adapter.clip_model.visual.mask_embedding"})


@pytest.mark.parametrize(("variant", "config"), [("base", "ovseg_r101c_vitb"), ("large", "ovseg_swinb_vitl")])
def test_published_parameters_train_as_published(reference, monkeypatch, variant, config):
    """Names, learning-rate multipliers and weight decay; without memory, and with a small CLIP since CLIP is frozen."""
    load = ovseg_model.load_clip_from_config

    def load_on_cpu(cfg):
        with torch.device("cpu"):
            return load(cfg)

    monkeypatch.setattr(ovseg_model, "load_clip_from_config", load_on_cpu)
    options = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.NAME", "toybox-vit", "MODEL.CLIP.PRETRAINED", ""]
    cfg = load_config(
        f"configs/{config}.yaml", [*options, "MODEL.CLIP.QUICK_GELU", "auto", "MODEL.CLIP.TEXT_CACHE", ""]
    )
    with torch.device("meta"):
        model = OVSeg(cfg)
    stored = json.loads((reference / "ovseg" / f"trainable-{variant}.json").read_text())
    wanted = {name: (e["lr_multiplier"], e["weight_decay"]) for name, e in stored["trainable"].items()}
    assert trainable_table(model, model.checkpoint_table(), cfg) == wanted
    assert stored["base_lr"] == cfg.SOLVER.BASE_LR

"""FC-CLIP: ensemble and synonyms against the published formulas, training, official names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance.case import Case
from conformance.systems import fcclip as fcclip_cases
from detectron2.structures import Instances

from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.two_stage.ensemble import GeometricEnsemble
from twostage.systems.two_stage.fcclip.model import SynonymText
from twostage.systems.two_stage.fcclip.weights import checkpoint_table
from twostage.systems.two_stage.heads import synonym_logits
from twostage.vocabulary import Vocabulary

CONFIGS = Path(__file__).parents[2] / "configs"


def toy(*opts: str):
    torch.manual_seed(0)
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "", *opts)
    return build_model(load_config(str(CONFIGS / "toybox" / "fcclip.yaml"), opts))


def batch(names=("grass, lawn", "sky", "blue star")):
    torch.manual_seed(1)
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    instances.gt_masks[0, :32] = instances.gt_masks[1, 40:, :50] = True
    return [{"image": torch.randint(0, 255, (3, 64, 96)), "instances": instances, "vocabulary": list(names)}]


def test_a_class_is_as_good_as_its_best_synonym():
    torch.manual_seed(0)
    embeddings = torch.randn(2, 4, 8, requires_grad=True)
    names = F.normalize(torch.randn(5, 8), dim=-1)
    logits = synonym_logits(embeddings, names, torch.tensor([0, 0, 1, 2, 2]), torch.tensor(2.0), 3)
    cosine = F.normalize(embeddings, dim=-1) @ names.T
    wanted = math.exp(2) * torch.stack([cosine[..., :2].amax(-1), cosine[..., 2], cosine[..., 3:].amax(-1)], dim=-1)
    torch.testing.assert_close(logits, wanted)
    logits.sum().backward()
    assert torch.isfinite(embeddings.grad).all()
    # The factor of cosine similarities does not pass 100.
    capped = synonym_logits(embeddings, names, torch.arange(5), torch.tensor(9.0), 5)
    torch.testing.assert_close(capped, 100 * cosine)


def test_ensemble_follows_the_published_formula():
    torch.manual_seed(0)
    decoder, clip = torch.randn(1, 3, 6), torch.randn(1, 3, 6)
    seen = torch.tensor([True, False, True, False, False])
    valid = torch.tensor([[True, False, True]])
    got = GeometricEnsemble(seen_weight=0.4, unseen_weight=0.8, valid_only=True)(decoder, clip, seen, valid)
    for q in range(3):
        a, b = (0.4, 0.8) if valid[0, q] else (0.0, 0.0)
        inside, outside = decoder[0, q, :-1].softmax(0), clip[0, q, :-1].softmax(0)
        joined = torch.where(seen, (inside ** (1 - a) * outside**a).log(), (inside ** (1 - b) * outside**b).log())
        void = decoder[0, q].softmax(0)[-1:]
        wanted = (torch.cat([joined.softmax(0) * (1 - void), void]) + 1e-8).log()
        torch.testing.assert_close(got[0, q], wanted)
    everywhere = GeometricEnsemble(seen_weight=0.4, unseen_weight=0.8, valid_only=False)
    assert not torch.allclose(everywhere(decoder, clip, seen, valid)[0, 1], got[0, 1])


def test_an_impossible_class_stays_finite():
    decoder, clip = torch.zeros(1, 1, 3), torch.tensor([[[0.0, -1e4, 0.0]]])
    joined = GeometricEnsemble(seen_weight=0.4, unseen_weight=0.8, valid_only=False)(
        decoder, clip, torch.tensor([True, True]), torch.ones(1, 1, dtype=torch.bool)
    )
    assert torch.isfinite(joined).all()


def test_seen_classes_share_a_name_with_the_training_set():
    model = toy()
    words = model.embed_vocabulary(Vocabulary.from_words(["lawn, grass", "lawn", "plain red circle, dot"]))
    assert words.seen.tolist() == [name in model.train_names for name in ("grass", "lawn", "plain red circle")]
    assert words.seen[0] and not words.seen[1]
    assert words.names.shape[0] == 5 and words.classes.tolist() == [0, 0, 1, 2, 2]


def test_training_vocabulary_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("a cat, kitty\nsky\n")
    model = toy("MODEL.FCCLIP.TRAIN_VOCABULARY", str(tmp_path / "names.txt"))
    assert model.train_names == {"a cat", "kitty", "sky"}


def test_outputs_of_every_kind():
    kinds = ("PANOPTIC", "INSTANCES", "PROPOSALS")
    model = toy(*(opt for kind in kinds for opt in (f"TEST.{kind}", "True"))).eval()
    with torch.no_grad():
        (out,) = model([{**batch()[0], "things": [0, 2]}])
    assert set(out) == {"sem_seg_labels", "panoptic_seg", "instances", "proposals"}
    assert out["sem_seg_labels"].shape == (64, 96) and len(out["proposals"]) == len(model.decoder.query_feat.weight)
    found = out["instances"]
    assert set(found.pred_classes.tolist()) <= {0, 2} and found.pred_masks.shape == (len(found), 64, 96)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    ids, segments = out["panoptic_seg"]
    # No mask of a toy that has learned nothing is this sure of its class.
    assert segments == [] and int(ids.max()) == 0


def test_clip_is_frozen_and_stays_in_evaluation_mode():
    model = toy().train()
    assert not model.clip.training and not any(p.requires_grad for p in model.clip.parameters())
    losses = model(batch())
    # The last prediction, and those before and after each of three layers but the last.
    assert sorted(losses) == sorted(f"loss_{k}{s}" for k in ("ce", "mask", "dice") for s in ("", "_0", "_1", "_2"))
    torch.stack(list(losses.values())).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_optimizer_settings_are_the_published_ones(reference):
    """By name; the model is small, so only names and settings are compared, not shapes."""
    published = json.loads((reference / "fcclip" / "trainable-convnext-large.json").read_text())
    cfg = load_config(str(CONFIGS / "fcclip_convnextl.yaml"))
    opts = ("MODEL.MASK2FORMER.ENCODER_LAYERS", "6", "MODEL.MASK2FORMER.DECODER_LAYERS", "9")
    model = toy(*opts)
    table = model.checkpoint_table()
    ours = {}
    for name, setting in parameter_settings(cfg, model).items():
        (official,) = table.to_official({name: torch.zeros(())})
        ours[official] = [setting.lr / cfg.SOLVER.BASE_LR, setting.weight_decay]
    assert ours == published["trainable"]


@pytest.mark.parametrize("variant", ["convnext-large", "r50"])
def test_every_official_tensor_is_accounted_for(reference, variant):
    keys = json.loads((reference / "fcclip" / f"keys-{variant}.json").read_text())
    tensors = {name: torch.zeros(()) for name in keys}
    table = checkpoint_table()
    assert table.recognises(tensors)
    ours = table.to_ours(tensors, source="keys")
    assert sorted(table.to_official(ours)) == sorted(set(keys) - {"criterion.empty_weight"})


@pytest.mark.slow
def test_r50_model_has_every_official_tensor(reference):
    keys = json.loads((reference / "fcclip" / "keys-r50.json").read_text())
    opts = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.CLIP.PRETRAINED",
        "",
        "MODEL.CLIP.TEXT_CACHE",
        "",
        "MODEL.CLIP.QUICK_GELU",
        "off",
    ]
    model = build_model(load_config(str(CONFIGS / "fcclip_r50.yaml"), opts))
    official = model.checkpoint_table().to_official(model.state_dict())
    shapes = {name: list(value.shape) for name, value in official.items()}
    assert shapes == {n: k["shape"] for n, k in keys.items() if n != "criterion.empty_weight"}


def test_a_vit_is_refused():
    with pytest.raises(UserError, match=r"FC-CLIP needs .*convolutional"):
        toy("MODEL.CLIP.NAME", "toybox-vit")


def test_ensemble_equals_the_reference_run(reference):
    """The case stores both classifiers' logits whole, so that this part needs no model."""
    case = Case.read(reference / "fcclip" / "public-convnextl-small.json")
    logits = {}
    for name in ("pred_logits", "out_vocab_logits"):
        shape = tuple(case.arrays[f"{name}__shape"])
        assert len(case.arrays[f"{name}__idx"]) == math.prod(shape)
        logits[name] = torch.as_tensor(case.arrays[f"{name}__val"]).view(shape)
    ensemble = GeometricEnsemble(seen_weight=case.meta["alpha"], unseen_weight=case.meta["beta"], valid_only=False)
    seen = torch.tensor(case.meta["category_overlapping_mask"], dtype=torch.bool)
    joined = ensemble(logits["pred_logits"], logits["out_vocab_logits"], seen, torch.ones(1, 250, dtype=torch.bool))
    row = case.compare("mask_cls_final", joined[0])
    assert row.passed, row


@pytest.mark.parametrize("stored", ["on", "off"])
def test_resnet_cases_get_the_activation_that_their_text_had(reference, monkeypatch, stored):
    texts = {"off": torch.eye(2), "on": torch.eye(2).flip(0)}

    def build(_case, name, quick_gelu):
        return (
            f"{name} {quick_gelu}",
            None,
            SynonymText(texts[quick_gelu], torch.arange(2), torch.ones(2, dtype=torch.bool)),
        )

    monkeypatch.setattr(fcclip_cases, "build", build)
    case = Case(
        Path(), Case.read(reference / "fcclip" / "own-r50-small.json").meta, {"text_classifier": texts[stored].numpy()}
    )
    model, _, words = fcclip_cases.seeded_model(case)
    assert model == f"RN50 {stored}"
    torch.testing.assert_close(words.names, texts[stored])


@pytest.mark.parametrize(
    ("config", "overrides", "clip"),
    [
        ("fcclip_convnext_large_eval_ade20k.yaml", [], "convnext_large_d_320"),
        ("fcclip_convnext_large_eval_ade20k_r50.yaml", [], "RN50"),
        ("fcclip_convnext_large_eval_ade20k_r101.yaml", [], "RN101"),
        ("fcclip_convnext_large_eval_ade20k_r50x16.yaml", [], "RN50x16"),
        ("fcclip_convnext_large_eval_pc59.yaml", ["MODEL.FC_CLIP.CLIP_MODEL_NAME", "RN50x4"], "RN50x4"),
    ],
)
def test_tower_of_a_case(config, overrides, clip):
    assert fcclip_cases.clip_of(Case(Path(), {"config": config, "config_overrides": overrides}, {})) == clip

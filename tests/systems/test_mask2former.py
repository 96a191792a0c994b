"""Mask2Former as a system: its three classifiers, official checkpoints, training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import Instances

from twostage.checkpoint.checkpointer import load_weights
from twostage.config import load_config
from twostage.engine.optimizer import parameter_settings
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.two_stage.mask2former.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

CONFIGS = Path(__file__).parents[2] / "configs"


def toy(*opts: str, config: str = "mask2former"):
    torch.manual_seed(0)
    opts = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", *opts)
    return build_model(load_config(str(CONFIGS / "toybox" / f"{config}.yaml"), opts))


def batch(names=("grass", "sky", "blue star")):
    torch.manual_seed(1)
    instances = Instances((64, 96))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    instances.gt_masks[0, :32] = instances.gt_masks[1, 40:, :50] = True
    return [{"image": torch.randint(0, 255, (3, 64, 96)), "instances": instances, "vocabulary": list(names)}]


def test_text_classifier_takes_any_vocabulary():
    model = toy().eval()
    assert model(batch())[0]["sem_seg_labels"].shape == (64, 96)
    model = toy("TEST.SEMANTIC_OUTPUT", "scores").eval()
    with torch.no_grad():
        three, two = model(batch())[0]["sem_seg"], model(batch(("grass", "sky")))[0]["sem_seg"]
    assert three.shape == (3, 64, 96) and two.shape == (2, 64, 96)


def test_text_classifier_is_a_cosine():
    model = toy().eval()
    text = model.embed_vocabulary(Vocabulary.from_words(["grass", "sky"]))
    queries = torch.randn(1, 4, 64)
    logits = model.class_logits(queries, text)
    assert logits.shape == (1, 4, 3)
    wanted = 100 * F.cosine_similarity(model.class_embed(queries)[0, 1], text[1], dim=0)
    torch.testing.assert_close(logits[0, 1, 1], wanted, rtol=1e-3, atol=1e-3)


def test_training_step_reaches_every_trainable_parameter():
    model = toy().train()
    losses = model(batch())
    # The final prediction and those before each of the three layers.
    assert len(losses) == 3 * 4 and all(torch.isfinite(v) for v in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [] and not any(p.requires_grad for p in model.clip.parameters())


def test_agnostic_losses_do_not_know_classes():
    model = toy(config="mask2former_agnostic").train()
    assert model.clip is None and model.class_embed.out_features == 2
    one, other = batch(), batch()
    other[0]["instances"].gt_classes = torch.tensor([1, 1])
    losses = []
    for inputs in (one, other):
        torch.manual_seed(3)
        losses.append(model(inputs))
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name])


def test_closed_classifier_wants_its_own_number_of_names():
    opts = ("MODEL.MASK2FORMER.CLASSIFIER", "closed", "MODEL.MASK2FORMER.NUM_CLASSES", "3")
    model = toy(*opts).eval()
    assert model(batch())[0]["sem_seg_labels"].max() <= 2
    with pytest.raises(UserError, match="knows 3 classes, the vocabulary names 2"):
        model(batch(("a", "b")))


def test_an_official_checkpoint_loads_by_content_under_all_its_names():
    opts = ("MODEL.MASK2FORMER.CLASSIFIER", "closed", "MODEL.MASK2FORMER.NUM_CLASSES", "3")
    model, other = toy(*opts), toy(*opts)
    table = model.checkpoint_table()
    official = table.to_official(model.state_dict()) | {"criterion.empty_weight": torch.ones(4)}
    assert "sem_seg_head.pixel_decoder.transformer.encoder.layers.1.linear2.bias" in official
    assert "sem_seg_head.predictor.transformer_ffn_layers.2.linear1.weight" in official
    for prefix in ("sem_seg_head.pixel_decoder.", "sem_seg_head.pixel_decoder.pixel_decoder.", "sem_seg_head."):
        renamed = {n.replace("sem_seg_head.pixel_decoder.", prefix): v for n, v in official.items()}
        renamed = {n.replace("predictor.query_feat", "predictor.static_query"): v for n, v in renamed.items()}
        for parameter in other.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(other, {"model": renamed}, "official")
        for name, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("keys", "config"),
    [
        ("r50-ade", "mask2former_r50"),
        ("r101-ade", "mask2former_r101"),
        ("swint-ade", "mask2former_swint"),
        ("swinb-ade", "mask2former_swinb"),
        ("swinl-ade", "mask2former_swinl"),
        ("r50-coco", "mask2former_r50_coco"),
        ("swinb-coco", "mask2former_swinb_coco"),
    ],
)
def test_every_official_tensor_is_accounted_for(reference, keys, config):
    published = json.loads((reference / "mask2former" / f"keys-{keys}.json").read_text())
    cfg = load_config(str(CONFIGS / f"{config}.yaml"), ("MODEL.DEVICE", "meta"))
    with torch.device("meta"):
        model = build_model(cfg)
    table = checkpoint_table()
    assert table.recognises(published)
    official = {n: tuple(t.shape) for n, t in table.to_official(model.state_dict()).items()}
    assert official == {n: tuple(e["shape"]) for n, e in published.items() if n != "criterion.empty_weight"}


def test_published_optimizer_settings():
    """Norms, embeddings and bias tables are not decayed, the pixel decoder's level embedding is; a tenth for the backbone."""
    cfg = load_config(str(CONFIGS / "mask2former_swint.yaml"), ("MODEL.DEVICE", "meta"))
    with torch.device("meta"):
        settings = parameter_settings(cfg, build_model(cfg))
    for name, wanted in {
        "generator.decoder.query_feat.weight": (1e-4, 0.0),
        "generator.decoder.level_embed.weight": (1e-4, 0.0),
        "generator.pixel_decoder.level_embed": (1e-4, 0.05),
        "generator.pixel_decoder.input_proj.0.1.weight": (1e-4, 0.0),
        "generator.backbone.layers.0.blocks.0.attn.relative_position_bias_table": (1e-5, 0.0),
        "generator.backbone.layers.0.blocks.0.attn.qkv.bias": (1e-5, 0.05),
        "class_embed.bias": (1e-4, 0.05),
    }.items():
        assert settings[name] == pytest.approx(wanted), name

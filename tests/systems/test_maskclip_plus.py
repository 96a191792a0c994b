"""MaskCLIP+: its networks, pseudo labels and schedule at tiny size, checkpoint names."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from twostage.clip.loading import load_clip
from twostage.clip.towers.convnext import hierarchical_features
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.one_stage.maskclip_plus.network import (
    ConvNormReLU,
    DeepLabV2Head,
    DeepLabV3PlusHead,
    DilatedConvNeXt,
    DilatedResNet,
)
from twostage.systems.one_stage.maskclip_plus.weights import checkpoint_table
from twostage.vocabulary import Vocabulary

NAMES = ["background", "sky", "grass", "blue star"]


def build(*opts):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.META_ARCHITECTURE", "MaskClipPlus"]
    overrides += ["MODEL.CLIP.NAME", "toybox-vit", "MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEMPLATES", "single"]
    overrides += ["MODEL.MASKCLIP_PLUS.BACKBONE", "resnet10t", "MODEL.MASKCLIP_PLUS.PRETRAINED", "False"]
    torch.manual_seed(0)
    return build_model(load_config("", [*overrides, *opts]))


def batch(labels, names=NAMES):
    torch.manual_seed(1)
    images = torch.rand(len(labels), 3, *labels.shape[1:]) * 255
    return [{"image": i, "sem_seg": label, "vocabulary": names} for i, label in zip(images, labels, strict=True)]


def test_labels_are_hidden_and_made_up_by_the_teacher():
    model = build("MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES", "[1,3]").train()
    labels = torch.tensor([0, 1, 2, 3, 255])[
        torch.randint(0, 5, (2, 48, 64), generator=torch.Generator().manual_seed(0))
    ]
    hidden = model.hide(labels)
    assert torch.equal(hidden == -1, (labels == 1) | (labels == 3))
    images = model.preprocess(batch(labels))
    text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
    made = model.pseudo_labels(hidden, torch.zeros(2, 128, 6, 8), text, images.tensor)
    patches = model.tower(images.tensor).patches
    cosine = torch.einsum("ud,bdhw->buhw", text[[1, 3]], F.normalize(patches, dim=1))
    wanted = torch.tensor([1, 3])[F.interpolate(cosine, size=(48, 64), mode="bilinear").argmax(1)]
    assert torch.equal(made, torch.where(hidden == -1, wanted, labels))


def test_annotation_free_hides_everything_but_ignored_pixels():
    model = build()
    hidden = model.hide(torch.tensor([[[0, 3, 255]]]))
    assert hidden.tolist() == [[[-1, -1, 255]]]


def test_the_network_labels_itself_after_the_first_phase():
    model = build("MODEL.MASKCLIP_PLUS.CLIP_GUIDED_ITERATIONS", "1").train()
    features = torch.randn(1, 128, 6, 8)
    text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
    hidden = torch.full((1, 48, 64), -1)
    images = model.preprocess(batch(hidden.clamp_min(0))).tensor
    scores = torch.einsum("ud,bdhw->buhw", text, features)
    own = F.interpolate(scores, size=(48, 64), mode="bilinear").argmax(1)
    assert (model.pseudo_labels(hidden, features, text, images) != own).float().mean() > 0.2
    model.iteration += 1
    assert torch.equal(model.pseudo_labels(hidden, features, text, images), own)


def test_the_loss_counts_ignored_pixels_in_its_mean():
    model = build("MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES", "[3]").train()
    labels = torch.full((1, 48, 64), 255)
    labels[:, :12] = 1
    entries = batch(labels)
    images = model.preprocess(entries)
    text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
    encoded = model.encode(images)
    (loss,) = model.losses(encoded, text, entries, images).values()
    logits = F.interpolate(model.logits(encoded.features, text), size=(48, 64), mode="bilinear")
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255) / 4)
    assert int(model.iteration) == 1
    labels.fill_(255)
    (nothing,) = model.losses(encoded, text, batch(labels), images).values()
    assert nothing.item() == 0


def test_only_the_network_trains():
    model = build("MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES", "[3]").train()
    losses = model(batch(torch.zeros(2, 64, 64, dtype=torch.int64)))
    losses["loss_ce"].backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"backbone", "head"}
    assert all(p.grad is not None for name, p in model.named_parameters() if p.requires_grad)
    assert not model.clip.training and model.backbone.training


def test_a_learned_background_takes_the_first_class():
    model = build("MODEL.MASKCLIP_PLUS.HIDDEN_CLASSES", "[2]", "MODEL.MASKCLIP_PLUS.LEARNED_BACKGROUND", "True").eval()
    text = model.embed_vocabulary(Vocabulary.from_words(NAMES))
    assert len(text) == 3
    features = torch.randn(1, 128, 2, 2)
    logits = model.logits(features, text)
    background = F.normalize(model.background_embedding, dim=-1)
    torch.testing.assert_close(logits[:, 0], torch.einsum("d,bdhw->bhw", background[0], features))
    # A hidden class is number 2 of the vocabulary, row 1 of the text.
    made = model.pseudo_labels(torch.full((1, 16, 16), -1), features, text, torch.zeros(1, 3, 16, 16))
    assert set(made.unique().tolist()) == {2}
    with pytest.raises(UserError, match="first class is 'background'"):
        model.embed_vocabulary(Vocabulary.from_words(NAMES[1:]))
    with pytest.raises(UserError, match="HIDDEN_CLASSES"):
        build("MODEL.MASKCLIP_PLUS.LEARNED_BACKGROUND", "True")


def test_a_batch_of_one_trains_by_the_running_statistics():
    torch.manual_seed(0)
    layer = ConvNormReLU(3, 4, 1).train()
    layer.bn.running_mean.normal_()
    x = torch.randn(1, 3, 1, 1)
    assert torch.equal(layer(x), layer.eval()(x))
    assert layer.train()(x).requires_grad and layer.bn.num_batches_tracked == 0


def test_networks_keep_stride_eight():
    backbone = DilatedResNet("resnet10t").eval()
    stages = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(stage.shape[2:]) for stage in stages] == [(16, 24), (8, 12), (8, 12), (8, 12)]
    assert DeepLabV2Head(backbone.channels, 16).eval()(stages).shape == (1, 16, 8, 12)
    assert DeepLabV3PlusHead(backbone.channels, 16).eval()(stages).shape == (1, 16, 16, 24)
    with pytest.raises(UserError, match="resnet101c"):
        DilatedResNet("vit_base_patch16_224")


def test_a_convnext_starts_from_its_clip_and_keeps_its_stride():
    clip, _ = load_clip("toybox-convnext", pretrained="toybox")
    plain = DilatedConvNeXt("toybox-convnext", weights="toybox", output_stride=32).eval()
    images = torch.randn(1, 3, 64, 128)
    for ours, clips in zip(plain(images), hierarchical_features(clip.visual, images), strict=True):
        torch.testing.assert_close(ours, clips)
    dilated = DilatedConvNeXt("toybox-convnext", weights="toybox", output_stride=16).eval()
    stages = dilated(images)
    assert [tuple(stage.shape[2:]) for stage in stages] == [(16, 32), (8, 16), (4, 8), (4, 8)]
    assert dilated.channels == [stage.shape[1] for stage in stages]
    with pytest.raises(UserError, match="ConvNeXt"):
        DilatedConvNeXt("toybox-vit")


def test_the_network_sees_enlarged_pictures_and_the_teacher_does_not():
    keys = ["BACKBONE", "toybox-convnext", "OUTPUT_STRIDE", "16", "ENLARGE", "2.0"]
    opts = [f"MODEL.MASKCLIP_PLUS.{key}" if i % 2 == 0 else key for i, key in enumerate(keys)]
    model = build(*opts).eval()
    entries = batch(torch.zeros(1, 32, 48, dtype=torch.int64))
    images = model.preprocess(entries)
    twice = F.interpolate(images.tensor, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(model.encode(images).features, model.head(model.backbone(twice)))
    assert model.encode(images).features.shape[2:] == (4, 6)
    assert model.teach(images.tensor, torch.eye(3, 128)).shape[2:] == (4, 6)
    assert model(entries)[0]["sem_seg_labels"].shape == (32, 48)


def test_a_clips_weights_are_not_for_a_resnet():
    with pytest.raises(UserError, match="CLIP_WEIGHTS"):
        build("MODEL.MASKCLIP_PLUS.CLIP_WEIGHTS", "toybox")


VARIANTS = [
    "maskclipplus-vit16-context59", "maskclipplus-r50-voc20", "maskclipplus-r50x16-voc20",
    "maskclipplus-zeroshot-r50-voc21", "maskclipplus-zeroshot-r50-context60-deeplabv3plus",
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_official_tensor_is_accounted_for(reference, variant):
    keys = json.loads((reference / "trainingfree" / f"keys-{variant}.json").read_text())
    official = {name: torch.empty(entry["shape"], device="meta") for name, entry in keys.items()}
    table = checkpoint_table(resnet_teacher="vit" not in variant)
    assert table.recognises(official)
    ours = table.to_ours(official, source="keys")
    back = table.to_official(ours)
    assert sorted(back) == sorted(set(official) - {"decode_head.text_embeddings"})
    assert all(back[name].shape == official[name].shape for name in back)


def test_teacher_tensors_change_their_shape_not_their_values():
    model = build()
    table = model.checkpoint_table()
    state = model.state_dict()
    official = table.to_official(state)
    assert official["decode_head.proj.weight"].shape == (128, 128, 1, 1)
    assert official["decode_head.clip.cls_token"].shape == (1, 1, 128)
    back = table.to_ours(official, source="round trip")
    missing = set(state) - set(back)
    assert missing and all(name.startswith("clip.") and not name.startswith("clip.visual.") for name in missing)
    assert all(torch.equal(back[name], state[name]) for name in back)

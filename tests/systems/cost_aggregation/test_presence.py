"""Class presence: heads and losses against their formulas, the filter, and its place in CAT-Seg and SED."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from twostage.config import load_config
from twostage.errors import UserError
from twostage.inference import blocks
from twostage.systems.building import build_model
from twostage.systems.one_stage.cost_aggregation.variants.presence.cross_attention import CrossAttentionHead
from twostage.systems.one_stage.cost_aggregation.variants.presence.losses import (
    asymmetric_loss,
    binary_loss,
    present_classes,
)
from twostage.systems.one_stage.cost_aggregation.variants.presence.ml_decoder import MLDecoderHead
from twostage.systems.one_stage.cost_aggregation.variants.presence.presence import Presence
from twostage.vocabulary import Vocabulary

ROOT = Path(__file__).parents[3]
NAMES = ["grass", "blue star", "brick wall", "sea", "red ring", "sand", "sky", "dot"]


def unit(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_present_classes_are_those_of_some_known_pixel():
    labels = torch.tensor([[[0, 2], [255, 2]], [[-1, 3], [4, 3]]])
    assert present_classes(labels, 4).tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]


def test_asymmetric_loss_equals_its_formula():
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 5), (torch.rand(3, 5) > 0.6).float()
    total = 0.0
    for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = torch.tensor(x).sigmoid()
        shifted = max(p - 0.05, torch.tensor(0.0))
        total = total - ((1 - p) * p.log() if y else shifted**4 * (1 - shifted).log())
    torch.testing.assert_close(asymmetric_loss(logits, targets, positive_focus=1.0), total / 15)
    plain = asymmetric_loss(logits, targets, positive_focus=0.0, negative_focus=0.0, margin=0.0)
    torch.testing.assert_close(plain, binary_loss(logits, targets))


def test_easy_negatives_count_nothing_and_far_logits_stay_finite():
    # sigmoid(-3) lies below the margin.
    logits = torch.tensor([[-3.0, -60.0, 60.0, -60.0, 60.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]])
    loss = asymmetric_loss(logits, targets)
    # A negative that is taken for certain costs -0.95^4 log(0.05), a positive that is missed its logit.
    wanted = (-(0.95**4) * torch.tensor(0.05).log() + 60) / 5
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert logits.grad[0, :2].tolist() == [0, 0] and logits.grad.isfinite().all()
    torch.testing.assert_close(logits.grad[0, 3], torch.tensor(-0.2))


def test_cross_attention_equals_the_layer_written_out():
    torch.manual_seed(0)
    head = CrossAttentionHead(embedding=6, channels=8, heads=2)
    pixels, text = unit(2, 5, 6), unit(4, 6)
    normed = head.pixel_norm(pixels[1])
    query = head.query(head.class_norm(text[3]))
    keys, values = head.key(normed), head.value(normed)
    read = []
    for part in (slice(0, 4), slice(4, 8)):
        read.append((keys[:, part] @ query[part] / 2).softmax(dim=0) @ values[:, part])
    x = query + head.proj(torch.cat(read))
    x = x + head.mlp(head.norm(x))
    torch.testing.assert_close(head(pixels, text)[1, 3], head.logit(head.out_norm(x))[0])


def test_ml_decoder_equals_the_layer_written_out():
    torch.manual_seed(0)
    head = MLDecoderHead(embedding=6, channels=12, heads=3).eval()
    assert head.mlp[0].out_features == 32
    pixels, text = unit(2, 5, 6), unit(4, 6)
    memory, query = head.pixels(pixels[0]).relu(), head.classes(text[2]).relu()
    x = head.norms[0](2 * query)
    q, k, v = (
        F.linear(part, w, b)
        for part, w, b in zip(
            (x, memory, memory),
            head.attention.in_proj_weight.chunk(3),
            head.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    )
    read = [(k[:, s] @ q[s] / 2).softmax(dim=0) @ v[:, s] for s in (slice(0, 4), slice(4, 8), slice(8, 12))]
    x = head.norms[1](x + head.attention.out_proj(torch.cat(read)))
    x = head.norms[2](x + head.mlp[3](head.mlp[0](x).relu()))
    torch.testing.assert_close(head(pixels, text)[0, 2], x @ head.row[0] + head.bias[0], rtol=1e-4, atol=1e-5)


def test_groups_share_a_query_and_read_their_classes_by_text():
    torch.manual_seed(0)
    head = MLDecoderHead(embedding=6, channels=8, heads=2, group_size=2).eval()
    pixels, text = unit(1, 5, 6), unit(5, 6)
    queries = head.group_queries(text)
    assert queries.shape == (3, 8)
    projected = head.classes(text).relu()
    torch.testing.assert_close(queries[1], torch.cat([projected[2], projected[3]]))
    assert queries[2, 4:].eq(0).all() and head(pixels, text).shape == (1, 5)
    # A class is only touched by its own group.
    other = torch.cat([unit(2, 6), text[2:4], unit(1, 6)])
    torch.testing.assert_close(head(pixels, other)[0, 2:4], head(pixels, text)[0, 2:4])
    swapped = text[[0, 1, 2, 4, 3]]
    assert not torch.allclose(head(pixels, swapped)[0, 2], head(pixels, text)[0, 2])
    # With one vector for both classes of a group and the same text, the logits agree.
    alike = text[[0, 0]]
    first, second = head(pixels, alike)[0]
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", [CrossAttentionHead, MLDecoderHead])
def test_what_is_said_of_a_class_depends_on_no_other_nor_on_the_order_of_pixels(kind):
    torch.manual_seed(0)
    head = kind(embedding=6, channels=12, heads=3).eval()
    pixels, text = unit(2, 7, 6), unit(5, 6)
    whole = head(pixels, text)
    order = torch.tensor([3, 0, 4])
    torch.testing.assert_close(head(pixels, text[order]), whole[:, order])
    torch.testing.assert_close(head(pixels[:, torch.randperm(7)], text), whole)


@pytest.mark.parametrize("group_size", [1, 3])
def test_the_filter_looks_at_classes_in_blocks_of_whole_groups(group_size, monkeypatch):
    torch.manual_seed(0)
    head = MLDecoderHead(embedding=6, channels=12, heads=3, group_size=group_size).eval()
    presence = Presence(
        head=head, criterion=binary_loss, weight=1.0, threshold=0.5, least=1, group_size=group_size
    ).eval()
    embeddings, text = torch.randn(2, 6, 3, 3), unit(10, 2, 6)
    whole = presence(embeddings, text).detach().sigmoid().amax(dim=0)
    presence.threshold = float(whole.sort().values[4:6].mean())
    seen = []
    head.register_forward_hook(lambda _m, args, _o: seen.append(len(args[1])))
    monkeypatch.setattr(blocks, "CLASS_BLOCK", 4)
    kept = presence.kept(embeddings, text)
    assert kept.tolist() == (whole >= presence.threshold).nonzero()[:, 0].tolist() and len(kept) == 5
    assert seen == ([4, 4, 2] if group_size == 1 else [3, 3, 3, 1])


class Fixed(nn.Module):
    def __init__(self, probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).logit()

    def forward(self, pixels, text):
        return self.logits


def fixed(threshold, least):
    head = Fixed([[0.9, 0.2, 0.01, 0.3], [0.1, 0.6, 0.02, 0.3]])
    return Presence(head=head, criterion=binary_loss, weight=2.0, threshold=threshold, least=least)


@pytest.mark.parametrize(
    ("threshold", "least", "kept"),
    [(0.5, 1, [0, 1]), (0.3, 1, [0, 1, 3]), (0.95, 1, [0]), (0.95, 3, [0, 1, 3]), (0.5, 9, [0, 1, 2, 3])],
)
def test_classes_stay_that_are_probable_in_some_image(threshold, least, kept):
    assert fixed(threshold, least).kept(torch.zeros(2, 6, 1, 1), torch.zeros(4, 1, 6)).tolist() == kept


def test_a_threshold_of_zero_keeps_all_and_the_loss_is_weighted():
    assert fixed(0.0, 1).kept(torch.zeros(2, 6, 1, 1), torch.zeros(4, 1, 6)) is None
    labels = torch.tensor([[[0]], [[1]]])
    (loss,) = fixed(0.5, 1).losses(torch.zeros(2, 6, 1, 1), torch.zeros(4, 1, 6), labels).values()
    wanted = [0.9, 0.8, 0.99, 0.7, 0.9, 0.6, 0.98, 0.7]
    torch.testing.assert_close(loss, -2 * torch.tensor(wanted).log().mean())


def config(system, *opts):
    plain = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.TEMPLATES", "single"]
    named = [part if i % 2 or "." in part else f"MODEL.PRESENCE.{part}" for i, part in enumerate(opts)]
    return load_config(
        str(ROOT / "configs" / "toybox" / f"{system}.yaml"),
        [*plain, "MODEL.DEVICE", "cpu", *named],
    )


def model(system, *opts):
    torch.manual_seed(0)
    return build_model(config(system, *opts))


def batch(names=NAMES):
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
            "sem_seg": torch.randint(0, len(names), (64, 64)),
            "vocabulary": list(names),
        }
    ]


@pytest.mark.parametrize("system", ["catseg", "sed"])
@pytest.mark.parametrize(
    "opts",
    [
        ["HEAD", "cross_attention"],
        ["HEAD", "cross_attention", "LOSS", "asymmetric"],
        ["HEAD", "ml_decoder", "GROUP_SIZE", "4"],
    ],
    ids=["cross_attention", "asymmetric", "ml_decoder"],
)
def test_the_system_beside_it_is_trained_as_without_it(system, opts):
    built, parent = model(system, *opts).train(), model(system).train()
    parent.load_state_dict(
        {name: value for name, value in built.state_dict().items() if not name.startswith("presence.")}
    )
    torch.manual_seed(2)
    losses = built(batch())
    torch.manual_seed(2)
    wanted = parent(batch())
    assert set(losses) == {*wanted, "loss_presence"}
    torch.stack(list(losses.values())).sum().backward()
    torch.stack(list(wanted.values())).sum().backward()
    gradients = {name: p.grad for name, p in built.named_parameters() if p.requires_grad}
    head = [gradient for name, gradient in gradients.items() if name.startswith("presence.")]
    assert head and all(gradient is not None and gradient.abs().sum() > 0 for gradient in head)
    for name, parameter in parent.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


SLIDING = {"ENABLED": "True", "CANVAS": "96", "TILE": "64", "STRIDE": "32"}
SLIDING_OPTS = [part for key, value in SLIDING.items() for part in (f"TEST.SLIDING.{key}", value)]


@pytest.mark.parametrize(("system", "opts"), [("catseg", []), ("catseg", SLIDING_OPTS), ("sed", [])])
def test_the_filter_equals_asking_for_the_kept_classes_alone(system, opts):
    built = model(system, "HEAD", "cross_attention", "LEAST", "3", "THRESHOLD", "1.0", *opts).eval()
    with torch.no_grad():
        encoded, text = built.encode(built.preprocess(batch())), built.text(Vocabulary.from_words(NAMES))
        dense = encoded.embeddings if system == "catseg" else encoded.features.embeddings
        probability = built.presence(dense, text).sigmoid().amax(dim=0)
        kept = probability.topk(3).indices.sort().values
        filtered = built.decode(encoded, text).scores([(64, 64)])[0]
        built.presence.threshold = 0.0
        alone = built.decode(encoded, text[kept]).scores([(64, 64)])[0]
        whole = built.decode(encoded, text).scores([(64, 64)])[0]
    torch.testing.assert_close(filtered[kept], alone, rtol=1e-4, atol=1e-6)
    dropped = [i for i in range(len(NAMES)) if i not in kept.tolist()]
    assert filtered[dropped].max() < 1e-30 and whole[dropped].min() > 1e-6


@pytest.mark.parametrize("system", ["catseg", "sed"])
def test_early_rejection_goes_on_with_what_the_filter_leaves(system):
    reject = ["TEST.EARLY_REJECTION.ENABLED", "True", "TEST.EARLY_REJECTION.TOP_K", "1"]
    built = model(system, "HEAD", "ml_decoder", "LEAST", "4", "THRESHOLD", "1.0", *reject).eval()
    with torch.no_grad():
        encoded, text = built.encode(built.preprocess(batch())), built.text(Vocabulary.from_words(NAMES))
        dense = encoded.embeddings if system == "catseg" else encoded.features.embeddings
        present = built.presence.kept(dense, text)
        prediction = built.decode(encoded, text)
        built.presence.threshold = 0.0
        alone = built.decode(encoded, text[present])
    assert len(present) == 4 and prediction.num_classes == len(NAMES)
    assert torch.equal(prediction.kept, present[alone.kept])
    torch.testing.assert_close(prediction.logits, alone.logits)


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (["HEAD", "ml_decoders"], "allowed: 'none', 'cross_attention', 'ml_decoder'"),
        (["CHANNELS", "20"], "CHANNELS 20 must be a multiple of MODEL.PRESENCE.HEADS 8"),
        (["HEAD", "ml_decoder", "GROUP_SIZE", "3"], "must be a multiple of MODEL.PRESENCE.GROUP_SIZE 3"),
        (["HEAD", "cross_attention", "GROUP_SIZE", "4"], "needs MODEL.PRESENCE.HEAD 'ml_decoder'"),
        (["THRESHOLD", "1.5"], "between 0 and 1"),
        (["LEAST", "0"], "greater than 0"),
    ],
)
def test_wrong_values_are_named(opts, said):
    with pytest.raises(UserError, match=said):
        config("catseg", *opts)

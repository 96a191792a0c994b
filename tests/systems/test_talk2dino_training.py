"""Talk2DINO's projection learns from captions: the loss written out, what is trained, and that it finds the right head."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from twostage.api import find_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.training_free.talk2dino.head import WordProjection, features_and_attention
from twostage.systems.training_free.talk2dino.losses import caption_contrast, head_embeddings
from twostage.vocabulary import Vocabulary


def build():
    torch.manual_seed(0)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", ""]
    return build_model(load_config(find_config("toybox/talk2dino"), opts))


def pairs(count: int = 3, side: int = 64) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    captions = ["a blue star on grass", "sand and a red ring", "sky", "water"]
    return [
        {"image": torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator), "caption": caption}
        for caption in captions[:count]
    ]


def test_heads_are_weighted_means_of_their_patches() -> None:
    features, attention = torch.randn(2, 5, 3, 4), torch.randn(2, 3, 12)
    found = head_embeddings(features, attention)
    flat = features.flatten(2)
    for picture in range(2):
        for head in range(3):
            weights = attention[picture, head].exp()
            mean = sum(weights[n] * flat[picture, :, n] for n in range(12)) / weights.sum()
            torch.testing.assert_close(found[picture, head], mean / mean.norm())


def test_contrast_is_that_of_the_likest_heads() -> None:
    heads, captions = F.normalize(torch.randn(4, 3, 6), dim=-1), F.normalize(torch.randn(4, 6), dim=-1)
    like = torch.tensor([[max(float(head @ row) for head in some) for row in captions] for some in heads]) / 0.07
    wanted = 0.0
    for i in range(4):
        wanted += math.log(float(like[i].exp().sum())) + math.log(float(like[:, i].exp().sum())) - 2 * float(like[i, i])
    torch.testing.assert_close(caption_contrast(heads, captions), torch.tensor(wanted / 8))


def test_the_projection_alone_is_trained() -> None:
    model = build().train()
    batch = pairs()
    losses = model(batch)
    assert list(losses) == ["loss_contrastive"]
    losses["loss_contrastive"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        f"projection.{part}.{kind}" for part in ("hidden", "output") for kind in ("weight", "bias")
    }
    # The same pictures at the tower's own side and units, and whole captions.
    with torch.no_grad():
        seen = model.as_seen(torch.stack([entry["image"] for entry in batch]).float())
        assert seen.shape == (3, 3, 128, 128)
        heads = head_embeddings(*features_and_attention(model.foundation, seen))
        text = model.text.encode_prompts([entry["caption"] for entry in batch])
        wanted = caption_contrast(heads, model.projection(text))
    torch.testing.assert_close(losses["loss_contrastive"].detach(), wanted)


def test_label_maps_are_no_captions() -> None:
    model = build().train()
    entry = {**pairs(1)[0], "vocabulary": Vocabulary.from_words(["sky", "sand"])}
    del entry["caption"]
    with pytest.raises(UserError, match="Talk2Dino trains on image-caption pairs"):
        model([entry])


def test_it_finds_the_head_that_sees_what_the_caption_says() -> None:
    torch.manual_seed(0)
    text = torch.randn(256, 10)
    sees = F.normalize(text @ torch.randn(10, 8), dim=-1)
    heads = torch.stack(
        [F.normalize(torch.randn(256, 8), dim=-1), sees, F.normalize(torch.randn(256, 8), dim=-1)], dim=1
    )
    projection = WordProjection(text_width=10, width=8)
    optimizer = torch.optim.AdamW(projection.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        caption_contrast(heads, projection(text)).backward()
        optimizer.step()
    chosen = torch.einsum("bhw,bw->bh", heads, projection(text)).argmax(dim=1)
    assert float((chosen == 1).float().mean()) > 0.9

"""CLIP-DIY at tiny size against a written-out form; FOUND's head as its file comes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.api import find_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.foundation import loading, vit
from twostage.systems.building import build_model
from twostage.systems.cards import recognise_checkpoint
from twostage.systems.loading import build_from_config
from twostage.vocabulary import Vocabulary

TINY = vit.VitShape(patch=4, table=5, width=12, depth=2, heads=3, rule="scale_by_shape", timm="tiny")
WORDS = ("background", "grass", "sand", "red star")


def config(*opts: str):
    quiet = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "")
    return load_config(find_config("toybox/clip_diy"), [*quiet, *opts])


def noise(height: int, width: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch):
    """With objectness, from a random tower with patches of 4 pixels."""
    monkeypatch.setitem(loading.SHAPES, "dino_vits8", TINY)
    opts = (
        "MODEL.CLIP_DIY.OBJECTNESS",
        "True",
        "MODEL.FOUNDATION.NAME",
        "dino_vits8",
        "MODEL.FOUNDATION.PRETRAINED",
        "",
    )
    opts += ("MODEL.CLIP_DIY.CROP_SIZE", "0")
    torch.manual_seed(0)
    made = build_model(config(*opts)).eval()
    for value in (*made.foundation.parameters(), *made.found.parameters()):
        torch.nn.init.normal_(value, std=0.5)
    return made


def written_out(model, picture: Tensor, rows: Tensor, objectness: Tensor | None) -> Tensor:
    """Scores `[C, H, W]`, crop by crop."""
    height, width = picture.shape[1:]
    total = torch.zeros(len(rows), height, width)
    for side in (64, 32):
        grid = [
            [
                F.cosine_similarity(
                    model.clip.encode_image(model.as_seen(picture[None, :, y : y + side, x : x + side].float())), rows
                )
                for x in range(0, width - side + 1, side // 2)
            ]
            for y in range(0, height - side + 1, side // 2)
        ]
        maps = torch.stack([torch.stack(row, dim=1) for row in grid], dim=1)
        total += F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    mean = total / 2
    if objectness is not None:
        mean = torch.cat([mean[:1] * (1 - objectness), mean[1:] * objectness])
    return mean


@pytest.mark.parametrize("words", [WORDS, WORDS[1:]], ids=["background", "none"])
@torch.no_grad()
def test_crops_of_all_sizes_are_averaged(model, words: tuple[str, ...]) -> None:
    model.sides, model.crops_per_batch = (64, 32), 5
    picture = noise(64, 96)
    entry = {"image": picture, "original": noise(30, 45, seed=2)}
    text = model.embed_vocabulary(Vocabulary.from_words(words))
    (encoded,) = model.encode(model.preprocess([entry]))
    assert [tuple(grid.shape[1:]) for grid in encoded.crops] == [(1, 2), (3, 5)]
    objectness = None
    if words[0] == "background":
        found = model.found(model.foundation, entry["original"])
        rows, columns = (torch.arange(64) * 30 // 64, torch.arange(96) * 45 // 96)
        objectness = found[rows][:, columns]
        torch.testing.assert_close(encoded.objectness, objectness)
    wanted = written_out(model, picture, text.rows, objectness)
    predicted = model.decode([encoded], text)
    torch.testing.assert_close(predicted.similarities(0, (64, 96)), wanted, rtol=1e-4, atol=1e-5)
    assert (predicted.label_maps([(64, 96)])[0] == wanted.argmax(dim=0)).float().mean() > 0.999


@torch.no_grad()
def test_objectness_is_one_number_per_patch_resized(model) -> None:
    picture = noise(17, 22)
    padded = F.pad(model.found.units(picture), (0, 2, 0, 3))
    kept = {}
    hook = model.foundation.blocks[-1].attn.qkv.register_forward_hook(lambda *a: kept.update(qkv=a[2]))
    model.foundation(padded[None])
    hook.remove()
    keys = kept["qkv"][0, 1:].unflatten(1, (3, 12))[:, 1]
    logits = (keys @ model.found.head.weight.flatten() + model.found.head.bias).view(1, 1, 5, 6)
    wanted = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False).sigmoid()[0, 0, :17, :22]
    torch.testing.assert_close(model.found(model.foundation, picture), wanted)
    assert float(wanted.std()) > 0.01


@torch.no_grad()
def test_blocks_of_names_and_rows_are_parts_of_the_whole(model) -> None:
    text = model.embed_vocabulary(Vocabulary.from_words(WORDS))
    encoded = model.encode(model.preprocess([{"image": noise(64, 96)}]))
    maps = model.decode(encoded, text).images[0].maps
    whole = maps[slice(0, 4), slice(0, 64)]
    for names, rows in ((slice(0, 1), slice(3, 20)), (slice(1, 4), slice(40, 64))):
        torch.testing.assert_close(maps[names, rows], whole[names, rows])


def test_the_checkpoint_is_founds_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loading.SHAPES, "dino_vits8", TINY)
    head = {"weight": torch.randn(1, 12, 1, 1), "bias": torch.randn(1)}
    torch.save({"decoder": head}, tmp_path / "decoder_weights.pt")
    recognised = recognise_checkpoint(head)
    assert recognised is not None and recognised[0].name == "CLIP-DIY"
    tower = vit.FoundationVit(shape=TINY)
    torch.nn.init.normal_(tower.pos_embed)
    torch.save(tower.state_dict(), tmp_path / "dino.pth")
    model = build_from_config(
        config(
            *("MODEL.CLIP_DIY.OBJECTNESS", "True", "MODEL.FOUNDATION.NAME", "dino_vits8"),
            *("MODEL.FOUNDATION.PRETRAINED", str(tmp_path / "dino.pth")),
            *("MODEL.WEIGHTS", str(tmp_path / "decoder_weights.pt")),
        )
    )
    assert torch.equal(model.found.head.weight, head["weight"]) and torch.equal(model.found.head.bias, head["bias"])
    assert torch.equal(model.foundation.pos_embed, tower.pos_embed)
    toybox = build_from_config(config())
    assert torch.equal(model.clip.visual.conv1.weight, toybox.clip.visual.conv1.weight)


def test_settings_that_contradict_each_other() -> None:
    for opts, message in (
        (("MODEL.CLIP_DIY.CROPS", "[]"), r"CROPS is \[\]"),
        (("MODEL.CLIP_DIY.CROP_SIZE", "-1"), r"CROP_SIZE is -1"),
        (("MODEL.CLIP_DIY.OBJECTNESS", "True", "MODEL.FOUNDATION.NAME", "sam_vitb"), r"FOUND reads the keys of a DINO"),
        (("TEST.SLIDING.ENABLED", "True"), r"cuts its own crops"),
    ):
        with pytest.raises(UserError, match=message):
            config(*opts)

"""SAM: our walk over transformers' networks against its own, weights in both layouts, masks from a grid of points."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from twostage.errors import UserError
from twostage.foundation import loading
from twostage.foundation.sam import Sam, SamShape
from twostage.foundation.sam_names import SAM_RENAMES, as_ours
from twostage.foundation.sam_pictures import fitted, masks_at_size, rounded_up, sam_input
from twostage.foundation.sam_signatures import OFFICIAL, TRANSFORMERS
from twostage.systems.mask_sources.contract import paint
from twostage.systems.mask_sources.point_grid import stability
from twostage.systems.mask_sources.sam_grid import SamGrid

transformers = pytest.importorskip("transformers")

TINY = SamShape(width=24, depth=2, heads=2, attends_globally=(1,), file="tiny")
SIDE = 160


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    model = Sam(shape=TINY, side=SIDE).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return model


def official(model: Sam) -> dict[str, torch.Tensor]:
    """The authors' names."""
    result = {}
    for name, value in model.state_dict().items():
        result[next(new for rule in SAM_RENAMES if (new := rule.to_official(name)) is not None)] = value
    return result


@torch.no_grad()
def test_global_attention_row_by_row_equals_transformers(sam: Sam) -> None:
    images = torch.randn(2, 3, SIDE, SIDE)
    theirs = sam.vision_encoder(images).last_hidden_state
    torch.testing.assert_close(sam(images), theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rows_of_the_last_attention_are_softmaxed_and_give_the_block(sam: Sam) -> None:
    x = sam.last_input(torch.randn(1, 3, SIDE, SIDE))
    part = sam.last_attention(x)
    layer = sam.layers[-1]
    rows = [torch.cat([sam.attention_rows(part, head, slice(r, r + 3)) for r in range(0, 9, 3)]) for head in range(2)]
    rows = [torch.cat([a, sam.attention_rows(part, head, slice(9, 10))]) for head, a in enumerate(rows)]
    torch.testing.assert_close(rows[0].sum(dim=1), torch.ones(100))
    mixed = torch.stack([a @ v.flatten(0, 1) for a, v in zip(rows, part.values, strict=True)], dim=1).flatten(1)
    theirs, _ = layer.attn(layer.layer_norm1(x))
    torch.testing.assert_close(layer.attn.proj(mixed).view(theirs.shape), theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prompts_and_masks_equal_transformers(sam: Sam) -> None:
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": (1,),
            "num_pos_feats": 128,
            "image_size": SIDE,
        },
        prompt_encoder_config={"image_size": SIDE},
        mask_decoder_config={"layer_norm_eps": 1e-5},
    )
    whole = transformers.SamModel(config).eval()
    code = sam.prompt_encoder.shared_embedding.positional_embedding
    whole.load_state_dict({**sam.state_dict(), "shared_image_embedding.positional_embedding": code})
    images = torch.randn(1, 3, SIDE, SIDE)
    points, boxes = torch.tensor([[30.0, 40.0], [90.0, 20.0]]), torch.tensor([[5.0, 9.0, 70, 80], [60.0, 4, 120, 77]])
    theirs = whole(
        images,
        input_points=points[None, :, None],
        input_labels=torch.ones(1, 2, 1),
        input_boxes=boxes[None],
        multimask_output=False,
    )
    masks, scores = sam.decode_single(sam(images), sam.embed_points(points, boxes), sam.no_mask())
    torch.testing.assert_close(masks[:, 0], theirs.pred_masks[0, :, 0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores[:, 0], theirs.iou_scores[0, :, 0], atol=1e-4, rtol=1e-4)


def test_both_layouts_are_told_by_content(sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, code = sam.state_dict(), sam.prompt_encoder.shared_embedding.positional_embedding.data
    theirs = {**ours, "shared_image_embedding.positional_embedding": code.clone()}
    assert OFFICIAL.matches(official(sam)) and TRANSFORMERS.matches(theirs) and not OFFICIAL.matches(theirs)
    monkeypatch.setitem(loading.SAM_SHAPES, "sam_vitb", TINY)
    monkeypatch.setattr(loading, "Sam", lambda shape: Sam(shape=shape, side=SIDE))
    for number, tensors in enumerate((official(sam), theirs)):
        path = tmp_path / f"{number}.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        read = loading.read_sam("sam_vitb", str(path))
        assert read.keys() == ours.keys() and all(torch.equal(read[name], ours[name]) for name in ours)
    monkeypatch.setitem(
        loading.SAM_SHAPES, "sam_vitl", SamShape(width=32, depth=2, heads=2, attends_globally=(1,), file="")
    )
    with pytest.raises(UserError, match=r"does not fit this MODEL\.SAM\.NAME sam_vitl"):
        loading.read_sam("sam_vitl", str(path))
    with pytest.raises(
        UserError, match=r"MODEL\.SAM\.PRETRAINED is 'no\.pth', which is no file.*'official' to download"
    ):
        loading.read_sam("sam_vitb", "no.pth")


def test_every_official_tensor_has_a_name(reference) -> None:
    names = json.loads((reference / "proxy" / "keys-sam-vit-b.json").read_text())
    with torch.device("meta"):
        expected = Sam(shape=loading.SAM_SHAPES["sam_vitb"]).state_dict()
        ours = as_ours({name: torch.zeros(entry["shape"]) for name, entry in names.items()})
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in expected.items()}


def test_pictures_fill_the_square_s_upper_left() -> None:
    pixels = torch.randint(0, 256, (30, 61, 3), dtype=torch.uint8).numpy()
    assert rounded_up(pixels, 16).shape == (32, 64, 3) and fitted((30, 61), 160) == (79, 160)
    square = sam_input(pixels, 160)
    assert square.shape == (1, 3, 160, 160) and square[..., :79, :].abs().amin() > 0 and not square[..., 79:, :].any()
    logits = torch.zeros(1, 1, 40, 40)
    logits[..., :20, 20:] = 1
    at_size = masks_at_size(logits, inside=(79, 160), size=(30, 61), side=160)
    assert at_size[0, 0, :, 33:].min() > 0.9 and at_size[0, 0, :, :28].max() < 0.1


@torch.no_grad()
def test_a_grid_of_points_paints_large_masks_over_small_ones(sam: Sam) -> None:
    small, large = torch.zeros(4, 5, dtype=torch.bool), torch.zeros(4, 5, dtype=torch.bool)
    small[1:3, 1:3], large[:, 2:] = True, True
    painted = paint(torch.stack([large, small]), torch.tensor([1, 0]))
    assert painted[1].tolist() == [0, 1, 2, 2, 2] and painted[0].tolist() == [0, 0, 2, 2, 2]
    assert stability(torch.tensor([[[2.0, 0.5], [-0.5, -3.0]]])).tolist() == pytest.approx([1 / 3])
    picture = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = SamGrid(sam=sam, side=3, min_iou=-9.0, min_stability=-1.0, batch=4)
    labels = source(picture, None)
    assert labels.shape == (30, 50) and labels.dtype == torch.int64
    assert int(labels.max()) <= 9
    assert not SamGrid(sam=sam, side=3, min_iou=99.0, min_stability=0.0, batch=4)(picture, None).any()


def test_without_transformers_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install twostage\[sam\]"):
        Sam(shape=TINY, side=SIDE)

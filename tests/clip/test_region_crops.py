"""Crops of all regions at once equal one crop at a time through torch's own resizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.clip.regions.crops import (
    Cropper,
    crop_side,
    expand_boxes,
    mask_boxes,
)
from twostage.clip.statistics import CLIP_STATISTICS
from twostage.errors import UserError


def regions():
    torch.manual_seed(0)
    masks = torch.zeros(5, 37, 53, dtype=torch.bool)
    masks[0, 3:20, 10:41] = torch.rand(17, 31) > 0.4
    masks[1, 36, 52] = True
    masks[2] = True
    masks[3, :, 7] = True
    masks[4, 5:8, 2:50] = torch.rand(3, 48) > 0.5
    return torch.randn(3, 37, 53), masks


def test_boxes_are_tight():
    _, masks = regions()
    boxes = mask_boxes(torch.cat([masks, torch.zeros(1, 37, 53, dtype=torch.bool)]))
    for box, mask in zip(boxes, masks, strict=False):
        rows, columns = mask.nonzero().T
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes[-1].tolist() == [0, 0, 0, 0]


def test_expansion_truncates_towards_zero_then_clamps():
    boxes = torch.tensor([[10, 10, 21, 15], [0, 0, 5, 5], [48, 30, 53, 37]])
    grown = expand_boxes(boxes, 1.5, (37, 53))
    # Centre 15.5, half width 8.25: 7.25 -> 7, 23.75 -> 23; centre 12.5, half height 3.75: 8.75 -> 8, 16.25 -> 16.
    assert grown[0].tolist() == [7, 8, 23, 16]
    # -1.25 -> -1 -> 0, 6.25 -> 6.
    assert grown[1].tolist() == [0, 0, 6, 6]
    assert grown[2].tolist() == [46, 28, 53, 37]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 1.7])
def test_equal_to_one_at_a_time(soft, ratio):
    image, masks = regions()
    weights = torch.rand(5, 37, 53) if soft else masks
    background = (0.5, -0.2, 0.1)
    crops = Cropper(size=24, expand_ratio=ratio, background=background)(image, weights, mask_boxes(masks))
    fill = torch.tensor(background)[:, None, None]
    for index, (left, top, right, bottom) in enumerate(expand_boxes(mask_boxes(masks), ratio, (37, 53)).tolist()):
        weight = weights[index].float()
        painted = (image * weight + (1 - weight) * fill)[:, top:bottom, left:right]
        wanted = F.interpolate(painted[None], size=(24, 24), mode="bicubic", align_corners=False)[0]
        torch.testing.assert_close(crops.images[index], wanted, rtol=1e-4, atol=1e-5)
        cut = weight[None, None, top:bottom, left:right]
        assert torch.equal(crops.masks[index], F.interpolate(cut, size=(24, 24), mode="nearest")[0])


def test_places_in_large_boxes_round_as_torchs():
    """Of a box of hundreds of pixels; with one rounding more the crops are up to 2e-5 off."""
    torch.manual_seed(0)
    image = torch.randn(3, 640, 853)
    boxes = torch.tensor([[0, 0, 853, 640], [10, 20, 500, 333]])
    crops = Cropper(size=224)(image, torch.ones(2, 640, 853), boxes).images
    for crop, (left, top, right, bottom) in zip(crops, boxes.tolist(), strict=True):
        wanted = F.interpolate(image[None, :, top:bottom, left:right], size=(224, 224), mode="bicubic")[0]
        assert (crop - wanted).abs().max() < 8e-6


def test_no_region_gives_no_crop():
    image, masks = regions()
    crops = Cropper(size=24)(image, masks[:0], mask_boxes(masks[:0]))
    assert crops.images.shape == (0, 3, 24, 24) and crops.masks.shape == (0, 1, 24, 24)


def test_pixels_outside_the_mask_do_not_matter():
    image, masks = regions()
    cropper = Cropper(size=24)
    base = cropper(image, masks[:1], mask_boxes(masks[:1]))
    other = torch.where(masks[0], image, 100 * torch.randn(3, 37, 53))
    torch.testing.assert_close(cropper(other, masks[:1], mask_boxes(masks[:1])).images, base.images)


def test_side_of_crops(tiny_clip):
    """That of CLIP's pictures unless another is asked for, which must be whole patches of 8 pixels."""
    assert crop_side(tiny_clip.visual, 0, "KEY") == 32
    assert crop_side(tiny_clip.visual, 16, "KEY") == 16
    for wrong in (20, -8):
        with pytest.raises(UserError, match=f"KEY is {wrong}.*8 pixels"):
            crop_side(tiny_clip.visual, wrong, "KEY")


def test_clips_units_are_rounded_as_published():
    """The authors paint with 255 times the mean in double precision, and normalise with 255 times its float32."""
    mean = (0.48145466, 0.4578275, 0.40821073)
    rounded = CLIP_STATISTICS.rounded()
    assert torch.equal(torch.tensor(rounded.mean), torch.tensor(mean) * 255.0)
    painted = torch.tensor([255.0 * m for m in mean]) - torch.tensor(mean) * 255.0
    assert painted.abs().max() > 0
    background = torch.tensor(rounded.colour(CLIP_STATISTICS.mean))
    deviation = torch.tensor((0.26862954, 0.26130258, 0.27577711)) * 255.0
    assert torch.equal(background, painted / deviation)

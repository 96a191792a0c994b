"""CorrCLIP: which patches attend to which, regions that become one, labels mask by mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.api import find_config
from twostage.clip.dense.proxy import mix
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.training_free.corrclip.model import PADDING
from twostage.systems.training_free.corrclip.scope import majority_labels, merge_regions, scoped_attention
from twostage.systems.training_free.corrclip.tower import region_members
from twostage.vocabulary import Vocabulary

WINDOWS = ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.TILE", "64", "TEST.SLIDING.STRIDE", "32")


def build(*opts: str):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]
    torch.manual_seed(0)
    return build_model(load_config(find_config("toybox/corrclip"), [*overrides, *WINDOWS, *opts])).eval()


def test_regions_that_look_alike_become_one_also_by_way_of_a_third() -> None:
    angles = torch.tensor([0.0, 0.0, 0.5, 1.0, 2.5, 9.9])
    unit = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([7, 7, 8, 9, 10, 2])
    # Cosines of neighbours at 0.5 rad are 0.88, of 0 and 1 rad 0.54; the lowest label, 2, is no region.
    assert merge_regions(unit, labels, distance=0.2).tolist() == [1, 1, 1, 1, 2, 0]
    assert merge_regions(unit, labels, distance=0.1).tolist() == [1, 1, 2, 3, 4, 0]
    # A single region is nothing to merge.
    assert merge_regions(unit[:2], torch.tensor([3, 5]), distance=0.2).tolist() == [0, 1]


def test_patches_attend_within_their_region_and_loose_ones_by_likeness() -> None:
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(1, 7, 4, generator=generator), dim=2)
    regions = torch.tensor([[0, 1, 1, 2, 2, 2, 0]])
    cosines = unit @ unit.transpose(1, 2)
    mean = cosines.mean(dim=(1, 2), keepdim=True)
    attention = scoped_attention(cosines.clone(), 0, regions=regions, mean=mean, factor=4.0)[0]
    for i in range(7):
        loose = [j for j in range(7) if 0 in (int(regions[0, i]), int(regions[0, j]))]
        seen = [j for j in loose if cosines[0, i, j] > mean.squeeze()]
        seen += [j for j in range(7) if j not in loose and regions[0, i] == regions[0, j]]
        wanted = torch.zeros(7)
        wanted[seen] = (4 * cosines[0, i, seen]).softmax(dim=0)
        torch.testing.assert_close(attention[i], wanted)


def test_blocks_of_rows_give_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(2, 9, 4, generator=generator), dim=2)
    values, regions = torch.randn(2, 9, 3, generator=generator), torch.randint(0, 3, (2, 9), generator=generator)
    mean = (unit @ unit.transpose(1, 2)).mean(dim=(1, 2), keepdim=True)

    def attention(cosines: torch.Tensor, first: int) -> torch.Tensor:
        return scoped_attention(cosines, first, regions=regions, mean=mean, factor=4.0)

    whole = mix(unit, values, attention)
    monkeypatch.setattr("twostage.clip.dense.proxy._BLOCK", 2 * 2 * 9)
    torch.testing.assert_close(mix(unit, values, attention), whole)


def test_a_mask_takes_its_most_frequent_label_and_the_lowest_value_is_no_mask() -> None:
    labels = torch.tensor([[0, 1, 1], [2, 2, 0], [2, 0, 0]])
    masks = torch.tensor([[-1, 5, 5], [5, 8, 8], [8, 8, 8]])
    # Mask 5: 1 wins; mask 8: 0 thrice against 2 twice; the pixel of -1 stays.
    assert majority_labels(labels, masks, 3).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    # Of equally frequent labels the smallest.
    assert majority_labels(torch.tensor([[2, 1, 0]]), torch.tensor([[4, 4, 3]]), 3).tolist() == [[1, 1, 0]]


def test_members_are_what_is_left_on_the_coarser_grid() -> None:
    regions = torch.tensor([[[0, 0, 3, 3], [0, 0, 3, 3], [1, 1, 2, 3], [1, 1, 3, 3]]])
    inside, shown = region_members(regions, (2, 2))
    # 3 is sampled at the upper right, 2 at the lower right.
    assert inside[0].int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]
    assert shown[0].view(4, 4)[::2, ::2].tolist() == [[0, 3], [1, 2]]


@torch.no_grad()
def test_windows_together_equal_windows_alone_and_masks_decide() -> None:
    model = build()
    image = torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(64, 88, dtype=torch.int64)
    masks[10:40, 5:50], masks[30:60, 40:80] = 1, 2
    model.masks = lambda _picture, _name: masks
    images = model.preprocess([{"image": image}])
    (encoded,) = model.encode(images)
    assert len(encoded.mosaic.tiles) == 2
    model.windows_per_batch = 1
    (alone,) = model.encode(images)
    torch.testing.assert_close(encoded.features, alone.features, rtol=1e-4, atol=1e-5)
    text = model.embed_vocabulary(Vocabulary.from_words(["sky", "grass", "cat"]))
    labels = model.decode([encoded], text).label_maps([(64, 88)])[0]
    assert all(len(labels[masks == number].unique()) == 1 for number in (1, 2))
    images.masks = [torch.zeros_like(masks)]
    (other,) = model.encode(images)
    assert float((other.features - encoded.features).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.MASKS.SOURCE", "own"], r"MODEL\.MASKS\.SOURCE is 'own', but CorrCLIP has no mask generator"),
        (["MODEL.MASKS.SOURCE", "folder"], r"'folder', which needs MODEL\.MASKS\.FOLDER"),
        (["MODEL.FOUNDATION.NAME", "sam_vitb"], r"NAME is 'sam_vitb', but CorrCLIP compares queries and keys"),
        (["MODEL.CORRCLIP.SPATIAL_BLOCKS", "[]"], r"nothing is published for an image tower of 5 blocks.*\[1, 2\]"),
        (["MODEL.CORRCLIP.SPATIAL_BLOCKS", "[2, 4]"], r"between 0 and 3"),
    ],
)
def test_settings_that_contradict(opts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*opts)


def test_no_mask_has_the_number_that_stands_for_padding() -> None:
    model = build()
    images = model.preprocess([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
    images.masks = [torch.full((64, 64), PADDING)]
    with pytest.raises(UserError, match=f"a mask numbered {PADDING}"):
        model.encode(images)

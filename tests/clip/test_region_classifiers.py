"""Regions seen in one pass over the image: pooled features and biased attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.clip.loading import load_clip
from twostage.clip.regions.classifiers import BiasedRegions, PooledRegions, cells_inside
from twostage.clip.regions.encoder import RegionEncoder
from twostage.clip.towers.convnext import dense_embeddings
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.clip.towers.vit import embed_image, image_embeddings, run_blocks, value_path_features
from twostage.config import load_config
from twostage.systems.building import build_model


@pytest.fixture
def masks():
    """Left half, a thin line in the last patch column, nothing."""
    probabilities = torch.zeros(3, 32, 40)
    probabilities[0, :, :16] = 0.9
    probabilities[1, :, 39] = 0.9
    return probabilities


def test_thin_masks_keep_their_cells_and_empty_ones_have_none(masks):
    inside = cells_inside(masks > 0.5, (4, 5))
    assert inside[0].nonzero()[:, 1].unique().tolist() == [0, 1]
    assert inside[1].nonzero()[:, 1].unique().tolist() == [4]
    assert not inside[2].any()


@torch.no_grad()
def test_pooled_regions_are_means_of_dense_features(tiny_clip, masks):
    image = torch.randn(3, 32, 40)
    found = PooledRegions(threshold=0.5)(tiny_clip.visual, image, masks)
    dense = value_path_features(tiny_clip.visual, image[None])[0]
    torch.testing.assert_close(found.embeddings[0], F.normalize(dense[:, :, :2].mean((1, 2)), dim=-1))
    torch.testing.assert_close(found.embeddings[1], F.normalize(dense[:, :, 4].mean(1), dim=-1))
    assert found.valid.tolist() == [True, True, False] and not found.embeddings[2].any()


@pytest.mark.parametrize("regions", [PooledRegions(threshold=0.5), BiasedRegions(threshold=0.5, blocks=1)])
@torch.no_grad()
def test_a_picture_thinner_than_a_patch_has_regions(tiny_clip, regions):
    image, probabilities = torch.randn(3, 1, 40), torch.zeros(2, 1, 40)
    probabilities[0, :, :16] = 0.9
    found = regions(tiny_clip.visual, image, probabilities)
    padded = regions(tiny_clip.visual, *(F.pad(x, (0, 0, 0, 7)) for x in (image, probabilities)))
    torch.testing.assert_close(found.embeddings, padded.embeddings)
    assert found.valid.tolist() == [True, False] and found.embeddings[0].norm() == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_pooled_regions_of_a_convolutional_tower(masks):
    torch.manual_seed(0)
    visual = load_clip("toybox-convnext")[0].visual
    probabilities = torch.zeros(2, 64, 64)
    probabilities[0] = 0.9
    image = torch.randn(3, 64, 64)
    found = PooledRegions(threshold=0.5)(visual, image, probabilities)
    torch.testing.assert_close(found.embeddings[0], F.normalize(visual(image[None])[0], dim=-1), rtol=1e-3, atol=1e-4)
    assert found.valid.tolist() == [True, False]
    # A picture of no whole cells is padded, and a mask takes its own cells only.
    probabilities = torch.zeros(2, 50, 90)
    probabilities[0, :32, :64] = probabilities[1, :, 70:] = 0.9
    image = torch.randn(3, 50, 90)
    found = PooledRegions(threshold=0.5)(visual, image, probabilities)
    cells = feature_pyramid(visual, F.pad(image, (0, 6, 0, 14))[None])["res5"]
    assert cells.shape[2:] == (2, 3)
    wanted = dense_embeddings(
        visual, torch.stack([cells[0, :, 0, :2].mean(1), cells[0, :, :, 2].mean(1)])[..., None, None]
    )
    torch.testing.assert_close(found.embeddings, F.normalize(wanted[..., 0, 0], dim=-1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_biased_token_sees_only_its_mask(tiny_clip, masks):
    """The last block sees what the earlier blocks made of the whole image, so only what happens there is restricted."""
    image = torch.randn(3, 32, 40)
    visual = tiny_clip.visual
    found = BiasedRegions(threshold=0.5, blocks=1)(visual, image, masks)
    blocks = list(visual.transformer.resblocks)
    tokens, _ = run_blocks(blocks[:-1], embed_image(visual, image[None]))
    kept = torch.cat([torch.tensor([True]), cells_inside(masks > 0.5, (4, 5))[0].flatten()])
    last = blocks[-1](tokens.x[:, kept])
    wanted = F.normalize(visual.ln_post(last[:, 0]) @ visual.proj, dim=-1)[0]
    torch.testing.assert_close(found.embeddings[0], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_mask_of_everything_is_the_image(tiny_clip):
    image = torch.randn(3, 32, 40)
    found = BiasedRegions(threshold=0.5, blocks=3)(tiny_clip.visual, image, torch.ones(1, 32, 40))
    wanted = F.normalize(image_embeddings(tiny_clip.visual, image[None]), dim=-1)
    torch.testing.assert_close(found.embeddings, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("regions", "kind"), [("crop", RegionEncoder), ("mask_pool", PooledRegions), ("attention_bias", BiasedRegions)]
)
def test_one_key_chooses_the_classifier(regions, kind):
    opts = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.CLIP.PRETRAINED",
        "",
        "MODEL.CLIP.TEXT_CACHE",
        "",
        "MODEL.OVSEG.REGIONS",
        regions,
    ]
    torch.manual_seed(0)
    model = build_model(load_config("configs/toybox/ovseg.yaml", opts)).eval()
    assert isinstance(model.regions, kind)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "vocabulary": ["grass", "sky"]}])
    assert result["sem_seg_labels"].shape == (64, 96)

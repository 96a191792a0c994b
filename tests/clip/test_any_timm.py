"""Dense features of timm towers of any kind: a picture of one patch is that patch, sizes are free, methods are refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from twostage.clip.dense.tower import DenseTower
from twostage.clip.towers.any_timm import timm_dense, timm_stride
from twostage.errors import UserError

EVA = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "use_rot_pos_emb": True}


def tower(kind: str) -> SimpleNamespace:
    torch.manual_seed(0)
    if kind == "convnext":
        trunk = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 24), num_classes=0)
    elif kind == "eva":
        trunk = timm.models.eva.Eva(**EVA, num_classes=0, global_pool="avg")
    else:
        trunk = timm.models.eva.Eva(**EVA, num_classes=0, global_pool="token")
    return SimpleNamespace(trunk=trunk.eval(), head=nn.Linear(24, 10).eval())


@pytest.mark.parametrize(("kind", "stride"), [("convnext", 32), ("eva", 16), ("class token", 16)])
@torch.no_grad()
def test_any_tower_at_any_size(kind: str, stride: int) -> None:
    visual = tower(kind)
    dense = DenseTower(visual=visual, method="vanilla")
    assert dense.patch_size == (stride, stride) and timm_stride(visual) == stride
    images = torch.randn(2, 3, 2 * stride, 3 * stride)
    patches = dense(images).patches
    assert patches.shape == (2, 10, 2, 3) and patches.isfinite().all()
    torch.testing.assert_close(dense(images[1:]).patches, patches[1:], rtol=1e-4, atol=1e-5)
    features = visual.trunk.forward_features(images)
    if kind == "convnext":
        wanted = visual.head(visual.trunk.forward_head(features[:1, :, 1:2, 2:3]))
    else:
        # The last patch as class token and as all there is.
        wanted = visual.head(visual.trunk.forward_head(features[:1, -1:].expand(-1, 3, -1)))
    torch.testing.assert_close(patches[:1, :, 1, 2], wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mean_pooling_of_the_maps_is_the_pictures_embedding() -> None:
    """Where the head is linear and pooling a mean without a norm behind it, dense features average to the picture's."""
    visual = tower("eva")
    visual.trunk.fc_norm = nn.Identity()
    images = torch.randn(1, 3, 32, 32)
    DenseTower(visual=visual, method="vanilla")
    whole = visual.head(visual.trunk.forward_head(visual.trunk.forward_features(images)))
    torch.testing.assert_close(timm_dense(visual, images).mean(dim=(2, 3)), whole, rtol=1e-4, atol=1e-5)


def test_methods_that_change_a_vits_last_block_are_refused() -> None:
    with pytest.raises(UserError, match=r"METHOD 'naclip' changes the last block of a plain ViT.*use 'vanilla'"):
        DenseTower(visual=tower("eva"), method="naclip")

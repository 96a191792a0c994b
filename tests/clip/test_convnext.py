"""ConvNeXt features against timm's and open_clip's own forward pass, on a tiny tower."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from twostage.clip.loading import load_clip
from twostage.clip.towers.convnext import (
    dense_embeddings,
    hierarchical_features,
    require_convnext,
    set_regularisation,
    stage_widths,
)
from twostage.clip.towers.pyramid import feature_pyramid
from twostage.errors import UserError


@pytest.fixture(scope="module")
def visual():
    torch.manual_seed(0)
    return load_clip("toybox-convnext")[0].visual


def test_pyramid_is_timms(visual):
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        pyramid = hierarchical_features(visual, images)
        wanted = visual.trunk.forward_features(images)
    torch.testing.assert_close(pyramid.res5, wanted)
    strides = [info["reduction"] for info in visual.trunk.feature_info]
    assert [tuple(p.shape[2:]) for p in pyramid] == [(64 // s, 96 // s) for s in strides]
    assert [p.shape[1] for p in pyramid] == stage_widths(visual)


def test_stages_of_a_backbone_lie_channel_by_channel(visual):
    """As published; the blocks themselves leave the channels last, for which torch's kernels round otherwise."""
    images = torch.randn(1, 3, 64, 96)
    raw = hierarchical_features(visual, images)
    assert not any(stage.is_contiguous() for stage in raw)
    stages = feature_pyramid(visual, images)
    assert list(stages) == ["res2", "res3", "res4", "res5"]
    for stage, wanted in zip(stages.values(), raw, strict=True):
        assert stage.is_contiguous() and torch.equal(stage, wanted)


def test_a_dense_embedding_is_the_image_embedding_of_its_cell(visual):
    with torch.no_grad():
        res5 = hierarchical_features(visual, torch.randn(1, 3, 64, 96)).res5
        dense = dense_embeddings(visual, res5)
        cell = visual.head(visual.trunk.forward_head(res5[:, :, 1:2, 2:3]))
    assert dense.shape == (1, 128, *res5.shape[2:])
    torch.testing.assert_close(dense[0, :, 1, 2], cell[0], rtol=1e-4, atol=1e-5)


def test_stochastic_depth_rises_linearly():
    visual = load_clip("toybox-convnext")[0].visual
    set_regularisation(visual, drop_path=0.3, dropout=0.2)
    assert len(visual.trunk.stages) == 4
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in visual.trunk.stages for b in stage.blocks]
    assert rates == pytest.approx([0.3 * i / (len(rates) - 1) for i in range(len(rates))])
    assert [m.p for m in visual.head.modules() if isinstance(m, nn.Dropout)] == [0.2]
    set_regularisation(visual, drop_path=0.0, dropout=0.0)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trained, evaluated = visual.train()(images), visual.eval()(images)
    torch.testing.assert_close(trained, evaluated)


def test_a_vit_is_refused(tiny_clip):
    with pytest.raises(UserError, match="SED needs a CLIP with a ConvNeXt"):
        require_convnext(tiny_clip.visual, "SED")

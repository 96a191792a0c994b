"""Structures, layers, builders and the point functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, cat, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, Backbone, build_backbone, build_model
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.projects.point_rend import point_features
from detectron2.structures import BitMasks, Boxes, BoxMode, ImageList, Instances, pairwise_iou, polygons_to_bitmask
from torch import nn
from torch.nn import functional as F


def test_image_list() -> None:
    images = [torch.ones(3, 5, 7), torch.ones(3, 6, 4)]
    batch = ImageList.from_tensors(images, 32)
    assert batch.tensor.shape == (2, 3, 32, 32) and batch.image_sizes == [(5, 7), (6, 4)]
    assert batch.tensor.sum() == 3 * (35 + 24) and len(batch) == 2
    torch.testing.assert_close(batch[1], images[1])
    assert ImageList.from_tensors(images).tensor.shape == (2, 3, 6, 7)
    labels = ImageList.from_tensors([torch.zeros(2, 3, dtype=torch.long)], 4, pad_value=255)
    assert labels.tensor.dtype == torch.int64 and labels.tensor[0, 3, 3] == 255
    square = ImageList.from_tensors(images, 4, padding_constraints={"square_size": 10})
    assert square.tensor.shape == (2, 3, 12, 12)
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.ones(3, 2, 2), torch.ones(1, 2, 2)])


def test_instances() -> None:
    instances = Instances((4, 5), gt_classes=torch.tensor([3, 1, 2]))
    instances.names = ["a", "b", "c"]
    assert len(instances) == 3 and instances.image_size == (4, 5) and instances.has("names")
    assert instances[1].names == ["b"] and instances[-1].gt_classes.tolist() == [2]
    assert instances[0:2].gt_classes.tolist() == [3, 1]
    with pytest.raises(AssertionError, match="Adding a field of length 2 to a Instances of length 3"):
        instances.scores = torch.zeros(2)
    with pytest.raises(AttributeError):
        _ = instances.nothing
    both = Instances.cat([instances, instances[0:1]])
    assert both.gt_classes.tolist() == [3, 1, 2, 3] and both.names == ["a", "b", "c", "a"]
    assert instances.to("cpu").gt_classes.tolist() == [3, 1, 2]
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))
    instances.remove("names")
    assert set(instances.get_fields()) == {"gt_classes"}


def test_masks() -> None:
    tensor = torch.zeros(3, 6, 8)
    tensor[0, 2:4, 3:7] = 1
    tensor[2, 5, 7] = 1
    masks = BitMasks(tensor)
    assert masks.tensor.dtype == torch.bool and masks.nonempty().tolist() == [True, False, True]
    assert masks.get_bounding_boxes().tensor.tolist() == [[3, 2, 7, 4], [0, 0, 0, 0], [7, 5, 8, 6]]
    assert len(masks[1]) == 1 and len(masks[torch.tensor([True, False, True])]) == 2
    square = polygons_to_bitmask([np.array([1.0, 1, 4, 1, 4, 3, 1, 3])], 5, 6)
    assert square.dtype == bool and square.sum() == 6 and square[1:3, 1:4].all()


def test_boxes() -> None:
    boxes = Boxes([[0, 0, 4, 2], [2, 1, 6, 3]])
    assert boxes.area().tolist() == [8, 8]
    torch.testing.assert_close(pairwise_iou(boxes, boxes), torch.tensor([[1, 2 / 14], [2 / 14, 1]]))
    boxes.clip((2, 5))
    assert boxes.tensor.tolist() == [[0, 0, 4, 2], [2, 1, 5, 2]]
    assert BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]
    assert BoxMode.convert((1, 2, 4, 6), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS) == (1, 2, 3, 4)


def test_frozen_batch_norm() -> None:
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(FrozenBatchNorm2d(4)(x), x)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_()
    norm.running_var.uniform_(1, 2)
    nn.init.uniform_(norm.weight)
    expected = norm.eval()(x)
    frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(nn.Sequential(norm))
    torch.testing.assert_close(frozen(x), expected)
    assert list(frozen.state_dict()) == [
        "0.weight",
        "0.bias",
        "0.running_mean",
        "0.running_var",
        "0.num_batches_tracked",
    ]
    assert "num_batches_tracked" not in FrozenBatchNorm2d(4).state_dict()
    assert not list(frozen.parameters())


def test_norms_by_name() -> None:
    assert get_norm("", 8) is None and get_norm(None, 8) is None
    assert isinstance(get_norm("BN", 8), nn.BatchNorm2d)
    assert get_norm("GN", 64).num_groups == 32
    assert get_norm(lambda channels: nn.Identity(channels), 3).__class__ is nn.Identity
    with pytest.raises(KeyError):
        get_norm("nothing", 8)
    layer_norm, x = get_norm("LN", 6), torch.randn(2, 6, 3, 4)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (6,), eps=1e-6).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer_norm(x), expected)


def test_conv() -> None:
    conv = Conv2d(3, 4, 3, padding=1, bias=False, norm=get_norm("BN", 4), activation=F.relu).eval()
    assert list(conv.state_dict()) == [
        "weight",
        *(f"norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(conv(x), F.relu(F.conv2d(x, conv.weight, padding=1) / (1 + 1e-5) ** 0.5))
    assert cat([x]) is x and ShapeSpec(channels=3) == ShapeSpec(3, None, None, None)


def test_builders() -> None:
    class TestBackbone(Backbone):
        def __init__(self, cfg: object, input_shape: ShapeSpec) -> None:
            super().__init__()
            self.input_shape = input_shape
            self._out_features = ["res2"]
            self._out_feature_channels, self._out_feature_strides = {"res2": 7}, {"res2": 4}

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"res2": x}

    class TestArchitecture(nn.Module):
        def __init__(self, cfg: object) -> None:
            super().__init__()
            self.backbone = build_backbone(cfg)

    for registry, cls in ((BACKBONE_REGISTRY, TestBackbone), (META_ARCH_REGISTRY, TestArchitecture)):
        if cls.__name__ not in registry:
            registry.register(cls)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = "TestArchitecture", "TestBackbone"
    backbone = build_model(cfg).backbone
    assert backbone.input_shape == ShapeSpec(channels=3) and backbone.size_divisibility == 0
    assert backbone.output_shape() == {"res2": ShapeSpec(channels=7, stride=4)}


def test_postprocess() -> None:
    scores = torch.randn(2, 8, 8)
    expected = F.interpolate(scores[None, :, :6, :5], (12, 10), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(sem_seg_postprocess(scores, (6, 5), 12, 10), expected)


def test_point_sample() -> None:
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    points = torch.tensor([[[0.5, 0.5], [0.0, 0.0], [0.125, 0.125], [0.375, 0.125]]])
    sampled = point_features.point_sample(ramp, points, align_corners=False)
    assert sampled.shape == (1, 1, 4) and sampled.flatten().tolist() == [7.5, 0, 0, 1]
    grid = point_features.point_sample(ramp, points.reshape(1, 2, 2, 2), align_corners=False)
    torch.testing.assert_close(grid.reshape(1, 1, 4), sampled)


def test_uncertain_points() -> None:
    logits = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    points = point_features.get_uncertain_point_coords_with_randomness(logits, lambda x: -x.abs(), 12, 3.0, 0.75)
    torch.manual_seed(1)
    candidates, fresh = torch.rand(3, 36, 2), torch.rand(3, 3, 2)
    sampled = point_features.point_sample(logits, candidates, align_corners=False).abs()[:, 0]
    best = sampled.topk(9, dim=1, largest=False).indices
    expected = torch.stack([candidates[i][best[i]] for i in range(3)])
    torch.testing.assert_close(points, torch.cat([expected, fresh], dim=1))

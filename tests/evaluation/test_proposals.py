"""Average recall and best IoU of proposals against slow computations and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from twostage.data.catalogue import DatasetInfo
from twostage.errors import UserError
from twostage.evaluation import proposal_recall as proposals
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.measures import EvaluatedImage
from twostage.evaluation.proposal_recall import ProposalMeasure, average_recall, mask_ious


def sample(masks: torch.Tensor | None, label: torch.Tensor) -> EvaluatedImage:
    output = {} if masks is None else {"proposals": Instances(tuple(label.shape), pred_masks=masks)}
    return EvaluatedImage(record={}, output=output, prediction=label, label=label, valid=label != 255)


def measure() -> ProposalMeasure:
    names = ("a", "b", "c")
    info = DatasetInfo(
        name="x", benchmark="", split="", title="", class_names=names, prompts=names, images=(), labels=(), seen=(0, 1),
        unseen=(2,), zero_shot=True,
    )  # fmt: skip
    return ProposalMeasure(EvaluatedDataset.of(info))


@pytest.mark.parametrize("pixels", [7, 2**20])
def test_ious_equal_a_loop(monkeypatch, pixels):
    monkeypatch.setattr(proposals, "_PIXELS", pixels)
    torch.manual_seed(0)
    masks = torch.rand(6, 9, 11) < 0.4
    labels = torch.randint(0, 4, (9, 11))
    labels[labels == 1] = 255
    valid = labels != 255
    classes, iou = mask_ious(masks, labels, valid)
    assert classes.tolist() == [0, 2, 3]
    for q, mask in enumerate(masks):
        for n, c in enumerate((0, 2, 3)):
            region, inside = labels == c, mask & valid
            assert float(iou[q, n]) == pytest.approx(float((inside & region).sum() / (inside | region).sum()))


def test_average_recall_closed_form():
    # 1.0 reaches all ten thresholds, 0.6 the first three, 0.49 none.
    assert average_recall(np.array([1.0, 0.6, 0.49])) == pytest.approx((10 + 3) / 30)


def test_figures_of_seen_and_unseen_objects():
    label = torch.zeros(10, 10, dtype=torch.int64)
    label[:, 5:] = 2
    label[0] = 255
    masks = torch.zeros(12, 10, 10, dtype=torch.bool)
    masks[0, :, :5] = True  # class 0, ignored row included
    masks[11, :, 5:8] = True  # 0.6 of class 2, beyond the first ten
    counted = measure()
    counted.add(counted.of_image(sample(masks, label)))
    figures = counted.figures()
    assert figures["AR@10-seen"] == pytest.approx(100) and figures["AR@10-unseen"] == pytest.approx(0)
    assert figures["AR@50-unseen"] == pytest.approx(30) and figures["AR@50"] == pytest.approx(65)
    assert figures["best-IoU-unseen"] == pytest.approx(60) and figures["best-IoU"] == pytest.approx(80)


def test_totals_of_processes_add_up():
    torch.manual_seed(1)
    whole, first, second = measure(), measure(), measure()
    for index in range(4):
        masks, label = torch.rand(5, 8, 8) < 0.5, torch.randint(0, 3, (8, 8))
        counts = whole.of_image(sample(masks, label))
        whole.add(counts)
        (first, second)[index % 2].add(counts)
    merged = measure()
    merged.add(second.total())
    merged.add(first.total())
    assert merged.figures() == whole.figures() and len(whole.figures()) == 12


def test_a_system_without_masks_is_told():
    with pytest.raises(UserError, match=r"TEST\.PROPOSALS"):
        measure().of_image(sample(None, torch.zeros(4, 4, dtype=torch.int64)))

"""Gradients of blocks that recompute are those of blocks that keep their activations, which are fewer then."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage
from systems.masked_batch import batch
from torch import Tensor, nn

from twostage.config import load_config
from twostage.config.finding import find_config
from twostage.recomputation import recompute_activations
from twostage.systems.building import build_model


def _semantic_batch() -> list[dict]:
    (record,) = batch()
    labels = torch.full((64, 96), 255)
    for name, mask in zip(record["instances"].gt_classes, record["instances"].gt_masks, strict=True):
        labels[mask] = name
    return [{"image": record["image"], "sem_seg": labels, "vocabulary": record["vocabulary"]}]


def _gradients(model: nn.Module, inputs: list[dict]) -> tuple[dict[str, Tensor], int]:
    """Of the sum of all losses, and the bytes that are kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.zero_grad()
    torch.manual_seed(3)
    with EventStorage(0), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(model(inputs).values())
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found, sum(size for address, size in kept.items() if address not in weights)


@pytest.mark.parametrize(
    ("system", "make", "share"),
    [
        ("san", batch, 0.6),
        ("fcclip", batch, 0.6),
        ("mask2former", batch, 0.45),
        ("catseg", _semantic_batch, 0.4),
        ("sed", _semantic_batch, 0.45),
    ],
)
def test_same_gradients_from_less_memory(system, make, share):
    cfg = load_config(find_config(f"toybox/{system}"), ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    wanted, plain = _gradients(model, make())
    recompute_activations(model)
    found, recomputed = _gradients(model, make())
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert torch.equal(gradient, found[name]), name
    assert recomputed < share * plain

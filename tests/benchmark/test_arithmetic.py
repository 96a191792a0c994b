"""Counted arithmetic against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twostage.benchmark.arithmetic import best_rate, operations


@pytest.mark.parametrize("inference", [False, True])
def test_operations_of_layers(inference):
    """Products, linear layers, convolutions and attention: a multiply-add counts as two, whichever mode torch is in."""
    image, tokens = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4)
    heads = torch.randn(2, 3, 7, 4)
    linear, convolution = nn.Linear(4, 6), nn.Conv2d(3, 10, 3, padding=1)
    with torch.inference_mode(inference):
        assert operations(lambda: linear(tokens)) == 2 * (2 * 5) * 4 * 6
        assert operations(lambda: convolution(image)) == 2 * (2 * 8 * 8) * (3 * 9) * 10
        assert operations(lambda: tokens @ tokens.mT) == 2 * 2 * 5 * 5 * 4
        # Both products: with the keys and with the values.
        assert operations(lambda: F.scaled_dot_product_attention(heads, heads, heads)) == 2 * (2 * 2 * 3 * 7 * 7 * 4)
        assert operations(lambda: tokens + 1) == 0


def test_operations_of_a_backward_pass():
    """Gradients of a linear layer's input and weight are a product each; attention's backward pass computes five for two."""
    tokens, linear = torch.randn(5, 4, requires_grad=True), nn.Linear(4, 6)
    assert operations(lambda: linear(tokens).sum().backward()) == 3 * 2 * 5 * 4 * 6
    heads = torch.randn(2, 3, 7, 4, requires_grad=True)
    product = 2 * (2 * 3 * 7 * 7 * 4)
    assert operations(lambda: F.scaled_dot_product_attention(heads, heads, heads).sum().backward()) == 7 * product


def test_parameters_as_inputs_in_inference_mode():
    """Modules that get a parameter, as text towers get their prompts."""
    linear, prompts = nn.Linear(4, 6), nn.Parameter(torch.randn(5, 4))
    with torch.inference_mode():
        assert operations(lambda: linear(prompts)) == 2 * 5 * 4 * 6


def test_best_rate_is_that_of_a_product():
    assert 1e8 < best_rate(torch.float32, torch.device("cpu"), repeats=1) < 1e15

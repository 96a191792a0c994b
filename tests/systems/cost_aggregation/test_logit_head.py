"""The logit head of cost aggregation: what it computes by taps is the convolution that it is in training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from twostage.systems.one_stage.cost_aggregation.head import LogitHead, add_shifted


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_taps_equal_the_convolution(size, layout):
    torch.manual_seed(0)
    head = LogitHead(6)
    maps = torch.randn(3, 6, *size).contiguous(memory_format=layout)
    with torch.inference_mode():
        by_taps = head(maps)
    exact = F.conv2d(maps.double(), head.weight.double(), head.bias.double(), padding=1)
    assert by_taps.shape == (3, 1, *size)
    torch.testing.assert_close(by_taps.double(), exact, rtol=0, atol=2e-6)
    torch.testing.assert_close(head(maps).detach(), by_taps, rtol=0, atol=2e-6)


def test_learns_like_a_convolution():
    torch.manual_seed(0)
    head, plain = LogitHead(4), nn.Conv2d(4, 1, kernel_size=3, padding=1)
    plain.load_state_dict(head.state_dict())
    maps = torch.randn(2, 4, 5, 6)
    for layer in (head, plain):
        layer(maps).square().sum().backward()
    assert torch.equal(head.weight.grad, plain.weight.grad) and torch.equal(head.bias.grad, plain.bias.grad)


def test_taps_are_moved_to_what_the_convolution_reads():
    taps = torch.randn(9, 2, 4, 5)
    kernel = torch.eye(9).view(9, 1, 3, 3)
    wanted = sum(F.conv2d(taps[tap, :, None], kernel[tap, None], padding=1)[:, 0] for tap in range(9))
    torch.testing.assert_close(add_shifted(taps), wanted)

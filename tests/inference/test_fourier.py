"""Convolutions by the Fourier transform against torch's own in double precision."""

import pytest
import torch
from torch import nn

from twostage.inference.fourier import FourierConvolution, kernel_spectrum, wide_convolution


def layer_and_maps(*, channels=(3, 5), kernel=(7, 7), size=(6, 9), bias=True, maps=2):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, kernel, padding=tuple(side // 2 for side in kernel), bias=bias)
    return layer, torch.randn(maps, channels[0], *size)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 9), (9, 6), (24, 24)])
@pytest.mark.parametrize("kernel", [(7, 7), (3, 5), (1, 9)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_convolution(size, kernel, bias):
    layer, maps = layer_and_maps(size=size, kernel=kernel, bias=bias)
    with torch.inference_mode():
        result = FourierConvolution(layer, size)(maps)
        exact = layer.double()(maps.double())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=1e-6)


def test_nothing_wraps_around_the_border():
    layer, maps = layer_and_maps(size=(5, 5))
    maps[:, :, :4] = 0
    with torch.inference_mode():
        result = FourierConvolution(layer, (5, 5))(maps)
    # Row 0 reads rows up to 3, which are zero; row 4 would reach it around the border.
    torch.testing.assert_close(result[:, :, 0], layer.bias.detach()[None, :, None].expand(2, 5, 5), rtol=0, atol=1e-6)


def test_spectrum_of_a_kernel_that_changes_nothing_is_one():
    weight = torch.zeros(1, 1, 7, 7)
    weight[0, 0, 3, 3] = 1
    assert torch.equal(kernel_spectrum(weight, (10, 12)), torch.ones(10 * 7, 1, 1, dtype=torch.complex64))


class TestWhereItIsFaster:
    def layer(self):
        return layer_and_maps(channels=(32, 32))[0]

    def test_in_inference_for_many_maps(self):
        with torch.inference_mode():
            assert isinstance(wide_convolution(self.layer(), 16, (6, 9)), FourierConvolution)

    @pytest.mark.parametrize(("channels", "kernel", "maps"), [((31, 32), 7, 16), ((32, 32), 5, 16), ((32, 32), 7, 15)])
    def test_not_where_there_is_little_to_save(self, channels, kernel, maps):
        layer, _ = layer_and_maps(channels=channels, kernel=(kernel, kernel))
        with torch.inference_mode():
            assert wide_convolution(layer, maps, (6, 9)) is layer

    def test_not_with_gradients_nor_in_reduced_precision(self):
        layer = self.layer()
        assert wide_convolution(layer, 16, (6, 9)) is layer
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert wide_convolution(layer, 16, (6, 9)) is layer
        layer = self.layer().bfloat16()
        with torch.inference_mode():
            assert wide_convolution(layer, 16, (6, 9)) is layer

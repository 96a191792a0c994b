"""Convolutions with large kernels by the Fourier transform, where channels are mixed once per frequency, not once per tap.

Legend: N maps, I and O channels in and out, h x w grid, F frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from twostage.inference.precision import is_plain_inference
from twostage.inference.resampling import Size

# From where on the transforms of maps and kernel cost less than they save (SED's cost embedding: 80 channels to 128, 7x7).
_MAPS, _CHANNELS, _SIDE = 16, 32, 7


def wide_convolution(layer: nn.Conv2d, maps: int, size: Size) -> Callable[[Tensor], Tensor]:
    """`layer`, or the same by the Fourier transform where that is faster, for about `maps` maps of `size` in one go."""
    weight = layer.weight
    wide = maps >= _MAPS and min(weight.shape[:2]) >= _CHANNELS and min(weight.shape[2:]) >= _SIDE
    return FourierConvolution(layer, size) if wide and is_plain_inference(weight) else layer


class FourierConvolution:
    """What a convolution of stride 1 that keeps the grid does to maps `[N, I, h, w]` of one size."""

    def __init__(self, layer: nn.Conv2d, size: Size) -> None:
        """
        Args:
            layer: with odd sides and half of them as padding of zeros.
        """
        self.bias = layer.bias
        # A period that long keeps what wraps around in the zeros behind the map; an even one is transformed faster.
        height, width = (length + side // 2 for length, side in zip(size, layer.kernel_size, strict=True))
        self.period = (height + height % 2, width + width % 2)
        self.spectrum = kernel_spectrum(layer.weight, self.period)

    def __call__(self, maps: Tensor) -> Tensor:
        """`[N, O, h, w]`"""
        height, width = maps.shape[-2:]
        spectrum = torch.fft.rfft2(maps, s=self.period)
        grid = spectrum.shape[-2:]
        mixed = torch.bmm(spectrum.permute(2, 3, 0, 1).flatten(0, 1), self.spectrum)
        mixed = mixed.unflatten(0, grid).permute(2, 3, 0, 1).contiguous()
        result = torch.fft.irfft2(mixed, s=self.period)[..., :height, :width]
        return result if self.bias is None else result + self.bias[:, None, None]


def kernel_spectrum(weight: Tensor, period: Size) -> Tensor:
    """`[F, I, O]` of a kernel `[O, I, y, x]`, by which spectra of maps are multiplied.

    F are the frequencies of a real transform, row by row. Taps are few next to `period`, so they are summed up as they stand.
    """
    frequencies = (period[0], period[1] // 2 + 1)
    rows, columns = map(_phases, frequencies, period, weight.shape[2:])
    phase = rows[:, None, :, None] + columns[None, :, None, :]
    taps = weight.permute(2, 3, 1, 0).flatten(2).flatten(0, 1)
    real, imaginary = (wave.flatten(0, 1).flatten(1).to(weight) @ taps for wave in (phase.cos(), phase.sin()))
    return torch.complex(real, imaginary).view(-1, weight.shape[1], weight.shape[0])


def _phases(frequencies: int, period: int, taps: int) -> Tensor:
    """`[frequencies, taps]`, in radians: a layer's output at y reads y + tap - taps // 2, a correlation."""
    offsets = torch.arange(taps, dtype=torch.float64) - taps // 2
    return 2 * math.pi / period * torch.arange(frequencies, dtype=torch.float64)[:, None] * offsets

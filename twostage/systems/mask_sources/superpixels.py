"""Superpixels of scikit-image as masks: the source that needs no weights."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from skimage.segmentation import felzenszwalb, slic
from torch import Tensor

from twostage.systems.mask_sources.keys import SuperpixelName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Superpixels:
    """Every pixel is in a mask. A `MaskSource`.

    Attributes:
        kind: "felzenszwalb" (Felzenszwalb and Huttenlocher, IJCV 2004) or "slic" (Achanta et al., TPAMI 2012).
        scale, sigma, min_size: of the first; larger scales give larger masks, `min_size` is in pixels.
        count: of the second, about how many.
    """

    kind: SuperpixelName
    scale: float
    sigma: float
    min_size: int
    count: int

    def __call__(self, picture: Tensor, file_name: str | None) -> Tensor:
        """See `MaskSource`."""
        pixels = picture.permute(1, 2, 0).cpu().numpy()
        with warnings.catch_warnings():
            # Pictures of one colour, which have one superpixel.
            warnings.simplefilter("ignore", RuntimeWarning)
            if self.kind == "slic":
                labels = slic(pixels, n_segments=self.count, start_label=0)
            else:
                labels = felzenszwalb(
                    pixels, scale=self.scale, sigma=self.sigma, min_size=self.min_size, channel_axis=-1
                )
        return torch.from_numpy(labels).long() + 1

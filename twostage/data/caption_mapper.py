"""From an image-caption pair to what a model takes: a random part of the picture, its superpixels, the caption."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from skimage.segmentation import felzenszwalb
from torchvision.transforms import RandomResizedCrop

from twostage.data.images import read_rgb
from twostage.data.mapper import Record, to_tensor

# Width to height of the random part, least and most: RandomResizedCrop's usual range.
_RATIOS = (3 / 4, 4 / 3)


class CaptionMapper:
    """Maps a record to `image` uint8 `[3, S, S]`, `caption`, and `superpixels` int64 `[S, S]`, ids from 0 on.

    The superpixels are those of the whole picture (Felzenszwalb and Huttenlocher, IJCV 2004), cut like the picture, so a
    part of it does not change where their borders lie.
    """

    def __init__(
        self,
        *,
        size: int,
        area: tuple[float, float],
        superpixel_scale: float,
        superpixel_sigma: float,
        superpixel_min_size: int,
    ) -> None:
        """
        Args:
            size: side of the square that the part is resized to, in pixels.
            area: least and most share of the picture that the part covers.
            superpixel_scale, superpixel_sigma, superpixel_min_size: see scikit-image's `felzenszwalb`.
        """
        self.size = size
        self.area = area
        self.superpixel_scale = superpixel_scale
        self.superpixel_sigma = superpixel_sigma
        self.superpixel_min_size = superpixel_min_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CaptionMapper:
        """The mapper of `cfg.INPUT.CAPTIONS`."""
        keys = cfg.INPUT.CAPTIONS
        return cls(
            size=keys.SIZE,
            area=tuple(keys.AREA),
            superpixel_scale=keys.SUPERPIXEL_SCALE,
            superpixel_sigma=keys.SUPERPIXEL_SIGMA,
            superpixel_min_size=keys.SUPERPIXEL_MIN_SIZE,
        )

    def __call__(self, record: Record) -> Record:
        """Reads and augments; draws from the global generators (see `randomness.seeded_sampling`).

        Raises:
            UserError: unreadable file; names it.
        """
        image = read_rgb(record["file_name"])
        superpixels = felzenszwalb(
            image, scale=self.superpixel_scale, sigma=self.superpixel_sigma, min_size=self.superpixel_min_size
        )
        picture, ids = Image.fromarray(image), Image.fromarray(superpixels.astype(np.int32))
        top, left, height, width = RandomResizedCrop.get_params(picture, scale=list(self.area), ratio=list(_RATIOS))
        box, target = (left, top, left + width, top + height), (self.size, self.size)
        return {
            **record,
            "height": image.shape[0],
            "width": image.shape[1],
            "image": to_tensor(np.asarray(picture.resize(target, Image.Resampling.BICUBIC, box=box))),
            "superpixels": torch.from_numpy(np.array(ids.crop(box).resize(target, Image.Resampling.NEAREST))).long(),
        }

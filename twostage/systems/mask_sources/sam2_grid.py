"""SAM 2 (Ravi et al., ICLR 2025), as transformers runs it on pictures, asked at a grid of points."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from twostage.clip.statistics import PixelUnits
from twostage.errors import UserError
from twostage.foundation.loading import IMAGENET_STATISTICS
from twostage.foundation.sam import transformers_library
from twostage.systems.mask_sources.point_grid import PointGrid, Prompter

# The published repositories hold the network for videos, of which that for pictures is a part.
_KINDS = ("sam2", "sam2_video")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sam2Grid(PointGrid):
    """See `PointGrid`; where a single mask is not stable, SAM 2 itself takes the best of three.

    Attributes:
        network: transformers' Sam2Model.
    """

    network: Any

    def prompter(self, picture: Tensor) -> Prompter:
        """See `PointGrid`; the picture is stretched to the network's square."""
        size = (picture.shape[1], picture.shape[2])
        network = self.network
        device = network.no_memory_embedding.device
        side = int(network.config.prompt_encoder_config.image_size)
        square = F.interpolate(
            picture[None].to(device).float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        embeddings = network.get_image_embeddings(PixelUnits(IMAGENET_STATISTICS).to(device)(square))

        def ask(points: Tensor) -> tuple[Tensor, Tensor]:
            answer = network(
                image_embeddings=embeddings,
                input_points=(points.to(device) * side)[None, :, None],
                input_labels=torch.ones(1, len(points), 1, dtype=torch.int32, device=device),
                multimask_output=False,
            )
            masks = F.interpolate(answer.pred_masks[0], size=size, mode="bilinear", align_corners=False)
            return masks[:, 0], answer.iou_scores[0, :, 0]

        return ask


def read_sam2(name: str) -> Any:
    """transformers' Sam2Model of a folder in its layout, or of a repository of its hub; weights without pickle only.

    Raises:
        UserError: transformers is not installed; nothing is there, it is another network, or tensors are missing.
    """
    library = transformers_library("MODEL.MASKS.SOURCE 'sam2'")
    try:
        kind = library.AutoConfig.from_pretrained(name).model_type
        if kind not in _KINDS:
            raise UserError(f"MODEL.MASKS.MODEL {name!r} is a {kind!r}; allowed are {' and '.join(_KINDS)}")
        network, report = library.Sam2Model.from_pretrained(name, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"MODEL.MASKS.MODEL {name!r} can't be read ({' '.join(str(error).split())[:200]}); give a folder with config.json "
            "and model.safetensors, or a repository of the hub"
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"MODEL.MASKS.MODEL {name!r} lacks {len(missing)} tensors of SAM 2 (first: {missing[0]!r})")
    return network.eval().requires_grad_(False)

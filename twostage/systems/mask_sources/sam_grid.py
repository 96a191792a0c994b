"""SAM asked at a grid of points."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from twostage.foundation.sam import Sam
from twostage.foundation.sam_pictures import fitted, masks_at_size, sam_input
from twostage.systems.mask_sources.point_grid import PointGrid, Prompter


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamGrid(PointGrid):
    """See `PointGrid`."""

    sam: Sam

    def prompter(self, picture: Tensor) -> Prompter:
        """See `PointGrid`; the picture's longer side is the square's, the rest is padding."""
        pixels = picture.permute(1, 2, 0).cpu().numpy()
        size = (pixels.shape[0], pixels.shape[1])
        device = self.sam.prompt_encoder.no_mask_embed.weight.device
        inside = fitted(size, self.sam.side)
        embedding = self.sam(sam_input(pixels, self.sam.side).to(device))
        extent = torch.tensor([inside[1], inside[0]], device=device)

        def ask(points: Tensor) -> tuple[Tensor, Tensor]:
            prompts = self.sam.embed_points(points.to(device) * extent)
            logits, scores = self.sam.decode_single(embedding, prompts, self.sam.no_mask())
            return masks_at_size(logits, inside=inside, size=size, side=self.sam.side)[:, 0], scores[:, 0]

        return ask

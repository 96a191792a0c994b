"""Image-to-image correlation: what pixels have in common tells whose text similarity may be shared.

Proxy attention (ProxyCLIP, Lan et al., ECCV 2024, section 3.3; constants of its supplement B) over dense CLIP embeddings. With
S the cosine similarity of all pairs of pixels of an image,

    A = scale * (S - shift * mean(S)),    R = softmax over the pixels with A >= 0,    refined embeddings = R x.

The similarity is that of another backbone's features (the paper's DINO), or of the embeddings themselves. These have a large
part in common (in CAT-Seg v2 the class token, which the last block adds to every token): their mean similarity is often above
1 / shift, where nothing but the pixel itself would be left. So of their own similarity the image's mean is taken off first
(as Mu and Viswanath, ICLR 2018, do with word vectors for the same reason).

It is taken once per image: the cost map is linear in unit embeddings, so refining them spreads every class's costs with the
same R, whatever the number of classes.

Legend: B images, D embedding size, C channels of other features, h x w grid, N = h * w pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImageCorrelation(nn.Module):
    """Embeddings of pixels averaged over the pixels that look like them; without parameters."""

    def __init__(self, *, append: bool, guided: bool = False, shift: float = 1.2, scale: float = 3.0) -> None:
        """
        Args:
            append: whether refined embeddings come beside the plain ones, or in their place.
            guided: whether the similarity is that of the guide's features, or of the embeddings themselves.
            shift: pixels less similar than this times the mean similarity are left out.
            scale: of the softmax.
        """
        super().__init__()
        self.append = append
        self.guided = guided
        self.shift = shift
        self.scale = scale

    def forward(self, embeddings: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The embeddings and the correlated ones that `cost_map` takes; see `refine`.

        Args:
            embeddings: `[B, D, h, w]`.
            guide: features `[B, C, h', w']`, looked at where the correlation is guided.
        """
        refined = self.refine(embeddings, guide if self.guided else None)
        return (embeddings, refined) if self.append else (refined, None)

    def refine(self, embeddings: Tensor, features: Tensor | None = None) -> Tensor:
        """Refined embeddings `[B, D, h, w]`, averages of unit vectors.

        Args:
            embeddings: `[B, D, h, w]`.
            features: whose similarity counts, averaged on the grid of the embeddings; None for their own.
        """
        height, width = embeddings.shape[2:]
        pixels = F.normalize(embeddings, dim=1).flatten(2)
        if features is None:
            alike = embeddings - embeddings.mean(dim=(2, 3), keepdim=True)
        else:
            alike = F.adaptive_avg_pool2d(features, (height, width))
        return (pixels @ self.weights(F.normalize(alike, dim=1).flatten(2)).transpose(1, 2)).unflatten(
            2, (height, width)
        )

    def weights(self, unit: Tensor) -> Tensor:
        """R `[B, N, N]` of unit vectors `[B, C, N]`; rows add up to one."""
        similarity = unit.transpose(1, 2) @ unit
        affinity = self.scale * (similarity - self.shift * similarity.mean(dim=(1, 2), keepdim=True))
        # A pixel always keeps itself: where all look alike (mean above 1 / shift), nothing else would be left of its row.
        left_out = (affinity < 0) & ~torch.eye(unit.shape[2], dtype=torch.bool, device=unit.device)
        return affinity.masked_fill(left_out, float("-inf")).softmax(dim=-1)

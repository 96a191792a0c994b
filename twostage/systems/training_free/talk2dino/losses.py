"""Training of the projection from captions: contrast between captions and what the heads of the image tower look at.

Barsellotti et al., ICCV 2025, section 3.3; the released code's scale, which its training leaves as it is.

Legend: B pairs of a picture and a caption, H heads, n = h * w patches, W the image tower's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_TEMPERATURE = 0.07


def head_embeddings(features: Tensor, attention: Tensor) -> Tensor:
    """Unit means `[B, H, W]` of patches `[B, W, h, w]`, weighted as the class token attends to them.

    Args:
        attention: before the softmax, `[B, H, n]`.
    """
    return F.normalize(torch.einsum("bhn,bwn->bhw", attention.softmax(dim=-1), features.flatten(2)), dim=-1)


def caption_contrast(heads: Tensor, captions: Tensor) -> Tensor:
    """InfoNCE in both directions over the batch; a picture is as like a caption as its likest head.

    Args:
        heads: unit `[B, H, W]`.
        captions: unit `[B, W]`.
    """
    likeness = torch.einsum("bhw,cw->bhc", heads, captions).amax(dim=1) / _TEMPERATURE
    own = torch.arange(len(captions), device=captions.device)
    return (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2

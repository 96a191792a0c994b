"""The grounding loss: pictures and the words of their captions find each other in a batch (ODISE, Xu et al., CVPR 2023,
section 3.5, equation 5).

Legend: B pictures of all processes, Q masks, K words of a caption, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def grounding_loss(masks: Tensor, words: Tensor, valid: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of the similarities of pictures and captions.

    A caption without words is nobody's: its text term is 0 (but counts in the mean), and no picture is drawn to it. A batch
    without words compares the pictures with the empty captions.

    Args:
        masks: mask embeddings of this process, `[b, Q, W]`.
        words: unit embeddings of its words, `[b, K, W]`.
        valid: which of its captions have words, bool `[b]`.
        scale: factor of the cosine similarities.
    """
    similarity = caption_similarity(gather(F.normalize(masks, dim=-1)), gather(words), scale)
    counts = gather(valid.to(similarity.dtype))
    target = torch.arange(len(similarity), device=similarity.device)
    text = (F.cross_entropy(similarity.T, target, reduction="none") * counts).mean()
    weight = counts if bool(counts.any()) else torch.ones_like(counts)
    return (text + F.cross_entropy(similarity, target, weight=weight)) / 2


def caption_similarity(masks: Tensor, words: Tensor, scale: Tensor) -> Tensor:
    """Similarity `[B, B]` of picture i and caption j: every word looks for its masks, and the words are averaged.

    Args:
        masks: unit mask embeddings `[B, Q, W]`.
        words: unit word embeddings `[B, K, W]`.
    """
    scores = scale * torch.einsum("iqw,jkw->iqjk", masks, words)
    return (scores.softmax(dim=1) * scores).sum(dim=1).mean(dim=-1)


def gather(tensor: Tensor) -> Tensor:
    """`tensor` of all processes, one behind the other along the first axis; gradients go back to where they belong."""
    if comm.get_world_size() == 1:
        return tensor
    return torch.cat(list(all_gather(tensor.contiguous())))

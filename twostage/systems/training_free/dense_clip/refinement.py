"""What methods do to the similarities of an image's patches with the names before they are resized.

Legend: N names, T = h * w patches, W channels of the keys.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# MaskCLIP's temperature in both refinements; CLIP's own logit scale.
_SCALE = 100.0
# Similarity of a name that prompt denoising takes out.
_ABSENT = -100.0


def denoise_prompts(maps: Tensor, threshold: float) -> Tensor:
    """MaskCLIP's prompt denoising (Zhou et al., ECCV 2022, section 3.3) of similarities `[N, h, w]`.

    A name whose probability stays below `threshold` everywhere is taken out.
    """
    probabilities = (_SCALE * maps).softmax(dim=0)
    absent = probabilities.flatten(1).amax(dim=1) < threshold
    return maps.masked_fill(absent[:, None, None], _ABSENT)


def smooth_by_keys(maps: Tensor, keys: Tensor, threshold: float) -> Tensor:
    """MaskCLIP's key smoothing (section 3.3) of similarities `[N, h, w]` with the keys `[T, W]` of the patches.

    Patches whose best probability is below `threshold` take the sum of all patches' probabilities weighted by the products
    of the keys; the others take their own probabilities. As in the released code, keys have unit length per *channel*,
    over the patches, and the weights are neither normalised nor without the patch itself. The T x T matrix is not needed:
    (K K^T) p = K (K^T p).
    """
    probabilities = (_SCALE * maps).softmax(dim=0)
    keys = F.normalize(keys, dim=0)
    flat = probabilities.flatten(1).T
    smoothed = (keys @ (keys.T @ flat)).T.unflatten(1, maps.shape[1:])
    return smoothed.where(probabilities.amax(dim=0) < threshold, probabilities)


def operate_features(maps: Tensor, class_similarities: Tensor) -> Tensor:
    """CLIP Surgery's feature surgery (Li et al., 2023, section 3.3) of similarities `[N, h, w]`.

    Each name's similarity is weighted by how prominent the name is in the whole image, w = softmax(2 <class token, t>)
    over names divided by its mean; what names have in common, the mean over them, is taken out.

    Args:
        class_similarities: of the image's (or of each patch's window's) class embedding with the names, `[N, h or 1, w or 1]`.
    """
    weights = (2 * class_similarities).softmax(dim=0)
    weighted = weights / weights.mean(dim=0, keepdim=True) * maps
    return weighted - weighted.mean(dim=0, keepdim=True)

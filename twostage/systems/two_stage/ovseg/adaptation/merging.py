"""Put an adapted CLIP into a trained system (OVSeg, Liang et al., CVPR 2023: the generator is not trained again)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twostage.clip.regions.mask_prompt import MASK_PROMPT_NAME
from twostage.errors import UserError

_PREFIX = "clip."


def merge_clip(system: Mapping[str, Tensor], clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of `system` (one of our own checkpoints) with the image tower and mask prompts of `clip` (open_clip's names).

    Raises:
        UserError: `system` holds no CLIP, another architecture, or another text tower, to which its generator was trained.
    """
    old = {name.removeprefix(_PREFIX): value for name, value in system.items() if name.startswith(_PREFIX)}
    if not old:
        raise UserError(
            f"the system's checkpoint has no tensors '{_PREFIX}...': it holds no CLIP that could be replaced"
        )
    old.pop(MASK_PROMPT_NAME, None)
    wrong = sorted(
        name
        for name in old.keys() | (clip.keys() - {MASK_PROMPT_NAME})
        if name not in old or name not in clip or old[name].shape != clip[name].shape
    )
    if wrong:
        raise UserError(
            f"the two CLIPs are of different architectures: {len(wrong)} tensors differ in name or shape, e.g. '{wrong[0]}'"
        )
    image = {name for name in clip if name.startswith("visual.")}
    text = [name for name in clip if name not in image and name != "logit_scale" and not _equal(old[name], clip[name])]
    if text:
        raise UserError(
            f"the CLIPs' text towers differ (e.g. '{text[0]}'); the generator was trained to the old one. Adapt the CLIP that "
            "the system was trained with"
        )
    kept = {name: value for name, value in system.items() if name != _PREFIX + MASK_PROMPT_NAME}
    return kept | {_PREFIX + name: clip[name] for name in image}


def _equal(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.float(), second.float())

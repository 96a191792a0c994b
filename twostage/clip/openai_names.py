"""OpenAI's names of CLIP's tensors, which are open_clip's, in a system that holds CLIP as `clip` beside other networks."""

from __future__ import annotations

from twostage.checkpoint.renaming import Rename

_PREFIXES = (
    "visual.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "logit_scale",
)
CLIP_RENAMES = tuple(Rename(name, f"clip.{name}") for name in _PREFIXES)
# Of a checkpoint that leaves CLIP out.
CLIP_FRESH = {r"clip\..*": "CLIP's, from MODEL.CLIP.PRETRAINED"}

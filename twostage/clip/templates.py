"""Prompt templates: a class is embedded as the mean over them."""

from __future__ import annotations

from open_clip import OPENAI_IMAGENET_TEMPLATES

from twostage.clip.keys import TemplateSet

# ViLD (Gu et al., ICLR 2022), the set of 14 that OVSeg and SAN use; templates 2 to 5 have no full stop.
_VILD = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(f"a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{}} in the scene." for size in ("small", "medium", "large")),
)

# CLIP (Radford et al., ICML 2021): the 80 prompts for ImageNet, in open_clip's order.
_IMAGENET = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)

TEMPLATES: dict[TemplateSet, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),
    # CLIP-DIY (Wysoczanska et al., WACV 2024): without a full stop.
    "photo": ("a photo of a {}",),
    # No template: the name itself (ODISE's category head).
    "bare": ("{}",),
    "vild": _VILD,
    # CAT-Seg (Cho et al., CVPR 2024), as in its released configs.
    "scene": ("A photo of a {} in the scene",),
    "imagenet": _IMAGENET,
    # MaskCLIP (Zhou et al., ECCV 2022): ImageNet's and five more.
    "imagenet_scene": (
        *_IMAGENET,
        *(f"{words} {{}} in the scene." for words in ("there is a", "there is the")),
        *(f"{words} {{}} in the scene." for words in ("this is a", "this is the", "this is one")),
    ),
    # Talk2DINO (Barsellotti et al., ICCV 2025): CLIP's own choice of seven of ImageNet's.
    "imagenet_seven": (
        "itap of a {}.",
        "a bad photo of a {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}

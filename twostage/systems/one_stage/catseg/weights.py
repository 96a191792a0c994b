"""Names of official CAT-Seg checkpoints (v2: model_base.pth, model_large.pth; v1 with a second backbone) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.catseg.card import CARDS

_CLIP = "sem_seg_head.predictor.clip_model."
_OFFICIAL = "sem_seg_head.predictor.transformer."
_LAYER = f"{_OFFICIAL}layers.{{i}}."
_OURS = "aggregator."
_OUR_LAYER = f"{_OURS}layers.{{i}}."


def _blocks() -> list[Rename]:
    rules = []
    for official, ours in (("block_1", "blocks.0"), ("block_2", "blocks.1")):
        source, target = f"{_LAYER}swin_block.{official}.", f"{_OUR_LAYER}spatial.{ours}."
        rules += [
            Rename(f"{source}mlp.fc1.", f"{target}mlp.0."),
            Rename(f"{source}mlp.fc2.", f"{target}mlp.2."),
            Rename(source, target),
        ]
    return rules


def _decoder() -> list[Rename]:
    rules = []
    for stage in (0, 1):
        source, target = f"{_OFFICIAL}decoder{stage + 1}.", f"{_OURS}decoder.{stage}."
        rules.append(Rename(f"{source}up.", f"{target}up."))
        for place, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2")):
            rules.append(Rename(f"{source}conv.double_conv.{place}.", f"{target}{name}."))
    return rules


_SHARED = (
    Rename(_CLIP, "clip."),
    *_blocks(),
    Rename(f"{_LAYER}swin_block.", f"{_OUR_LAYER}spatial."),
    Rename(f"{_LAYER}attention.MLP.", f"{_OUR_LAYER}classes.mlp."),
    Rename(f"{_LAYER}attention.padding_tokens", f"{_OUR_LAYER}classes.padding_token"),
    Rename(f"{_LAYER}attention.", f"{_OUR_LAYER}classes."),
    Rename(f"{_OFFICIAL}conv1.", f"{_OURS}embed."),
    Rename(f"{_OFFICIAL}guidance_projection.0.", f"{_OURS}appearance."),
    Rename(f"{_OFFICIAL}text_guidance_projection.0.", f"{_OURS}text."),
    Rename(f"{_OFFICIAL}decoder_guidance_projection.{{i}}.0.", f"{_OURS}decoder_guidance.{{i}}."),
    *_decoder(),
    Rename(f"{_OFFICIAL}head.", f"{_OURS}head."),
)


def checkpoint_table(*, has_backbone: bool) -> CheckpointTable:
    """The table of v2, or of v1, whose guidance comes from a second backbone."""
    variant = "v1" if has_backbone else "v2"
    guidance = (
        (Rename("backbone.", "guide.backbone."),)
        if has_backbone
        else (Rename("upsample1.", "guide.upsampling.0."), Rename("upsample2.", "guide.upsampling.1."))
    )
    return CheckpointTable(
        system=f"CAT-Seg {variant}",
        signatures=(CARDS[0].signatures[variant],),
        renames=(*guidance, *_SHARED),
        dropped={r"(backbone\..*|.*\.swin_block\.block_2)\.attn_mask": "mask of the shifted windows, a constant"},
    )

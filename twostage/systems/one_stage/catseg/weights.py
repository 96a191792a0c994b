"""Names of official CAT-Seg checkpoints (model_base.pth, model_large.pth) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename

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


CHECKPOINT_TABLE = CheckpointTable(
    system="CAT-Seg",
    signature=(_CLIP, _OFFICIAL, "upsample1.", "upsample2."),
    renames=(
        Rename(_CLIP, "clip."),
        Rename("upsample1.", "tap_upsampling.0."),
        Rename("upsample2.", "tap_upsampling.1."),
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
    ),
    dropped={
        r".*\.swin_block\.block_2\.attn_mask": "mask of the shifted windows, a constant",
    },
)

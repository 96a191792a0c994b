"""Names in official ERR-Seg checkpoints and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.errseg.card import CARDS

_CLIP = "sem_seg_head.clip_model."
_OFFICIAL = "sem_seg_head.decoder."
_OURS = "aggregator."


def _layers() -> list[Rename]:
    official, ours = f"{_OFFICIAL}aggregator_layers.{{i}}.", f"{_OURS}layers.{{i}}."
    spatial = f"{official}spatial_fusion.sa."
    return [
        Rename(f"{spatial}attention.sr_k.", f"{ours}spatial.attention.reduce_k."),
        Rename(f"{spatial}attention.sr_v.", f"{ours}spatial.attention.reduce_v."),
        Rename(f"{spatial}mlp.dwconv.dwconv.", f"{ours}spatial.mlp.depthwise."),
        Rename(spatial, f"{ours}spatial."),
        Rename(f"{official}class_fusion.sa.", f"{ours}classes."),
    ]


def _decoder() -> list[Rename]:
    rules = []
    for stage in range(3):
        source, target = f"{_OFFICIAL}up_decoder{stage + 1}.", f"{_OURS}decoder.{stage}."
        rules.append(Rename(f"{source}up_conv.", f"{target}up."))
        for place, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2")):
            rules.append(Rename(f"{source}textual_fusion.{place}.", f"{target}{name}."))
    return rules


def checkpoint_table() -> CheckpointTable:
    """The table of both sizes."""
    return CheckpointTable(
        system="ERR-Seg",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_CLIP}visual.modify_downsample.0.", "fine_pass.norm."),
            Rename(f"{_CLIP}visual.modify_downsample.2.", "fine_pass.conv."),
            Rename(_CLIP, "clip."),
            Rename(f"{_OFFICIAL}corr_proj_convs.{{i}}.0.", f"{_OURS}costs.{{i}}."),
            Rename(f"{_OFFICIAL}low_corr_fusion.", f"{_OURS}cost_fusion."),
            Rename(f"{_OFFICIAL}img_guidance_projection_agg.{{i}}.0.", f"{_OURS}appearance.{{i}}."),
            Rename(f"{_OFFICIAL}low_img_fusion.", f"{_OURS}appearance_fusion."),
            Rename(f"{_OFFICIAL}img_guidance_projection_dec.{{i}}.0.", f"{_OURS}decoder_guidance.{{i}}."),
            Rename(f"{_OFFICIAL}text_guidance_projection.0.", f"{_OURS}text."),
            *_layers(),
            *_decoder(),
            Rename(f"{_OFFICIAL}head.", f"{_OURS}head."),
        ),
    )

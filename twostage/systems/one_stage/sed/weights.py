"""Names in official SED checkpoints (sed_model_base.pth, sed_model_large.pth) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.sed.card import CARDS

_PREDICTOR = "sem_seg_head.predictor."
_DECODER = f"{_PREDICTOR}transformer."


def _stage(number: int) -> tuple[Rename, ...]:
    """Stage `number` (0, 1, 2), which the official names count from 1."""
    official = f"{_DECODER}decoder{number + 1}."
    ours = f"decoder.stages.{number}."
    block = f"{ours}spatial.block."
    pairs = {
        "cnext.dwconv.": f"{block}conv_dw.",
        "cnext.norm.": f"{block}norm.",
        "cnext.pwconv1.": f"{block}mlp.fc1.",
        "cnext.pwconv2.": f"{block}mlp.fc2.",
        "cnext.gamma": f"{block}gamma",
        "attention.attention.": f"{ours}classes.attention.",
        "attention.MLP.": f"{ours}classes.mlp.",
        "attention.norm": f"{ours}classes.norm",
        "up.": f"{ours}fusion.up.",
        "conv.double_conv.0.": f"{ours}fusion.conv1.",
        "conv.double_conv.1.": f"{ours}fusion.norm1.",
        "conv.double_conv.3.": f"{ours}fusion.conv2.",
        "conv.double_conv.4.": f"{ours}fusion.norm2.",
    }
    return tuple(Rename(official + theirs, mine) for theirs, mine in pairs.items())


def checkpoint_table() -> CheckpointTable:
    """The table of both sizes."""
    return CheckpointTable(
        system="SED",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_PREDICTOR}clip_model.", "clip."),
            Rename(f"{_DECODER}conv1.", "decoder.embed."),
            Rename(f"{_DECODER}decoder_guidance_projection.{{i}}.0.", "decoder.visual_guidance.projections.{i}."),
            Rename(f"{_DECODER}decoder_corr_guidance_projection.{{i}}.0.", "decoder.cost_guidance.ups.{i}."),
            *(rule for number in range(3) for rule in _stage(number)),
            # The final head reads the last stage's output, head i what stage i is given.
            Rename(f"{_DECODER}head.", "decoder.heads.3."),
            Rename(f"{_DECODER}head{{i}}.", "decoder.heads.{i}."),
        ),
    )

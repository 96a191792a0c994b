"""Names in PCA-Seg checkpoints and ours: CAT-Seg's but for the layers and, on EVA02, CLIP's."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.catseg.weights import (
    AGGREGATOR,
    AROUND_LAYERS,
    CLIP,
    TAPS,
    class_rules,
    spatial_rules,
)
from twostage.systems.one_stage.pcaseg.card import CARDS

# Of a fusion in published models.
_EXPERTS = 4
_CONSTANTS = {
    r".*\.swin_block_(first|second)\.block_2\.attn_mask": "mask of the shifted windows, a constant",
    r".*\.rope\.freqs_(cos|sin)": "rotary position code, computed from the grid",
}


def _block(number: int, which: str) -> list[Rename]:
    """Block `number` of every layer, which the official names call `which`."""
    official, ours = f"{AGGREGATOR}layers.{{i}}.", f"aggregator.layers.{{i}}.blocks.{number}."
    fusion, target = f"{official}fusion_by_channel_{which}.", f"{ours}fusion."
    rules = [
        *spatial_rules(f"{official}swin_block_{which}.", f"{ours}spatial."),
        *class_rules(f"{official}attention_{which}.", f"{ours}classes."),
    ]
    # A rule counts one number, so experts are told apart here: as many as checkpoints have, by any layer.
    for expert in range(_EXPERTS):
        for place, name in ((0, "first"), (1, "norm"), (3, "second")):
            rules.append(Rename(f"{fusion}expert_layers.{expert}.{place}.", f"{target}experts.{expert}.{name}."))
    return [
        *rules,
        Rename(f"{fusion}gate_net.0.", f"{target}gate.first."),
        Rename(f"{fusion}gate_net.2.", f"{target}gate.second."),
        Rename(f"{fusion}res_scale", f"{target}residual_scale"),
        Rename(fusion, target),
    ]


def _eva() -> list[Rename]:
    """timm's names of an EVA02 tower under open_clip, for those of EVA-CLIP's own code."""
    official, ours = f"{CLIP}visual.blocks.{{i}}.", "clip.visual.trunk.blocks.{i}."
    pairs = {
        "attn.q_bias": "attn.q_proj.bias",
        "attn.v_bias": "attn.v_proj.bias",
        "attn.inner_attn_ln.": "attn.norm.",
        "mlp.w1.": "mlp.fc1_g.",
        "mlp.w2.": "mlp.fc1_x.",
        "mlp.ffn_ln.": "mlp.norm.",
        "mlp.w3.": "mlp.fc2.",
        "": "",
    }
    return [
        *(Rename(official + theirs, ours + mine) for theirs, mine in pairs.items()),
        Rename(f"{CLIP}visual.", "clip.visual.trunk."),
    ]


def checkpoint_table(*, eva: bool) -> CheckpointTable:
    """The table of a model on OpenAI's CLIP, or on EVA02-CLIP."""
    variant = "EVA02" if eva else "OpenAI"
    return CheckpointTable(
        system=f"PCA-Seg on {variant}",
        signatures=(CARDS[0].signatures[variant],),
        renames=(
            *TAPS,
            *(_eva() if eva else ()),
            Rename(CLIP, "clip."),
            *_block(0, "first"),
            *_block(1, "second"),
            *AROUND_LAYERS,
        ),
        dropped=_CONSTANTS,
    )

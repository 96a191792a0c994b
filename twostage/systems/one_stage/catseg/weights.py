"""Names of official CAT-Seg checkpoints (v2: model_base.pth, model_large.pth; v1 with a second backbone) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.catseg.card import CARDS

CLIP = "sem_seg_head.predictor.clip_model."
AGGREGATOR = "sem_seg_head.predictor.transformer."
_OURS = "aggregator."
_LAYER = "layers.{i}."


def spatial_rules(official: str, ours: str) -> list[Rename]:
    """Names of a pair of window-attention blocks, behind `official` and `ours`."""
    rules = []
    for theirs, mine in (("block_1", "blocks.0"), ("block_2", "blocks.1")):
        source, target = f"{official}{theirs}.", f"{ours}{mine}."
        rules += [
            Rename(f"{source}mlp.fc1.", f"{target}mlp.0."),
            Rename(f"{source}mlp.fc2.", f"{target}mlp.2."),
            Rename(source, target),
        ]
    return [*rules, Rename(official, ours)]


def class_rules(official: str, ours: str) -> list[Rename]:
    """Names of a class block, behind `official` and `ours`."""
    return [
        Rename(f"{official}MLP.", f"{ours}mlp."),
        Rename(f"{official}padding_tokens", f"{ours}padding_token"),
        Rename(official, ours),
    ]


def _decoder() -> list[Rename]:
    rules = []
    for stage in (0, 1):
        source, target = f"{AGGREGATOR}decoder{stage + 1}.", f"{_OURS}decoder.{stage}."
        rules.append(Rename(f"{source}up.", f"{target}up."))
        for place, name in ((0, "conv1"), (1, "norm1"), (3, "conv2"), (4, "norm2")):
            rules.append(Rename(f"{source}conv.double_conv.{place}.", f"{target}{name}."))
    return rules


# All but CLIP, the guide and the layers.
AROUND_LAYERS = (
    Rename(f"{AGGREGATOR}conv1.", f"{_OURS}embed."),
    Rename(f"{AGGREGATOR}guidance_projection.0.", f"{_OURS}appearance."),
    Rename(f"{AGGREGATOR}text_guidance_projection.0.", f"{_OURS}text."),
    Rename(f"{AGGREGATOR}decoder_guidance_projection.{{i}}.0.", f"{_OURS}decoder_guidance.{{i}}."),
    *_decoder(),
    Rename(f"{AGGREGATOR}head.", f"{_OURS}head."),
)
TAPS = (Rename("upsample1.", "guide.upsampling.0."), Rename("upsample2.", "guide.upsampling.1."))
_SHARED = (
    Rename(CLIP, "clip."),
    *spatial_rules(f"{AGGREGATOR}{_LAYER}swin_block.", f"{_OURS}{_LAYER}spatial."),
    *class_rules(f"{AGGREGATOR}{_LAYER}attention.", f"{_OURS}{_LAYER}classes."),
    *AROUND_LAYERS,
)


def checkpoint_table(*, has_backbone: bool) -> CheckpointTable:
    """The table of v2, or of v1, whose guidance comes from a second backbone."""
    variant = "v1" if has_backbone else "v2"
    guidance = (Rename("backbone.", "guide.backbone."),) if has_backbone else TAPS
    return CheckpointTable(
        system=f"CAT-Seg {variant}",
        signatures=(CARDS[0].signatures[variant],),
        renames=(*guidance, *_SHARED),
        dropped={r"(backbone\..*|.*\.swin_block\.block_2)\.attn_mask": "mask of the shifted windows, a constant"},
    )

"""Names of Mask2Former's generator in official checkpoints (Mask2Former, SCAN, FC-CLIP and others share them) and ours."""

from __future__ import annotations

from twostage.checkpoint.renaming import Rename

_PIXELS = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."

# What older and rewritten checkpoints call a tensor -> its official name. Loading without version metadata makes
# Detectron2 put "pixel_decoder." before names of the head, also where it stands already (Mask2Former, issue 95).
ALIASES = (
    Rename(f"{_PIXELS}pixel_decoder.", _PIXELS),
    *(
        Rename(f"sem_seg_head.{part}.", f"{_PIXELS}{part}.")
        for part in ("input_proj", "transformer", "adapter_1", "layer_1", "mask_features")
    ),
    Rename(f"{_PREDICTOR}static_query.", f"{_PREDICTOR}query_feat."),
)


def decoder_renames(ours: str) -> tuple[Rename, ...]:
    """Pixel decoder and masked decoder, which lie under `ours` ("generator.") in our model."""
    pixels, decoder = f"{ours}pixel_decoder.", f"{ours}decoder."
    encoder = f"{_PIXELS}transformer.encoder.layers.{{i}}."
    return (
        Rename(f"{encoder}self_attn.", f"{pixels}layers.{{i}}.attention."),
        Rename(f"{encoder}norm1.", f"{pixels}layers.{{i}}.norm."),
        Rename(f"{encoder}linear1.", f"{pixels}layers.{{i}}.feed_forward.linear1."),
        Rename(f"{encoder}linear2.", f"{pixels}layers.{{i}}.feed_forward.linear2."),
        Rename(f"{encoder}norm2.", f"{pixels}layers.{{i}}.feed_forward.norm."),
        Rename(f"{_PIXELS}transformer.level_embed", f"{pixels}level_embed"),
        Rename(f"{_PIXELS}input_proj.", f"{pixels}input_proj."),
        Rename(f"{_PIXELS}adapter_1.", f"{pixels}lateral."),
        Rename(f"{_PIXELS}layer_1.", f"{pixels}output."),
        Rename(f"{_PIXELS}mask_features.", f"{pixels}mask_features."),
        *(
            Rename(f"{_PREDICTOR}transformer_{kind}_layers.{{i}}.{theirs}", f"{decoder}layers.{{i}}.{layer}.{part}")
            for kind, layer, theirs, part in (
                ("self_attention", "self_attention", "self_attn.", "attn."),
                ("self_attention", "self_attention", "norm.", "norm."),
                ("cross_attention", "cross_attention", "multihead_attn.", "attn."),
                ("cross_attention", "cross_attention", "norm.", "norm."),
                ("ffn", "feed_forward", "", ""),
            )
        ),
        Rename(f"{_PREDICTOR}decoder_norm.", f"{decoder}norm."),
        *(
            Rename(f"{_PREDICTOR}{name}.", f"{decoder}{name}.")
            for name in ("query_feat", "query_embed", "level_embed", "mask_embed")
        ),
    )

"""Which published system a checkpoint belongs to, told from its tensor names, so that a wrong file is named for what it is."""

from __future__ import annotations

from collections.abc import Iterable

# System -> prefixes that all occur among its tensor names; more specific systems come first.
_SIGNATURES: dict[str, tuple[str, ...]] = {
    "SAN": ("side_adapter_network.", "clip_visual_extractor.", "ov_classifier."),
    "SAN (twostage)": ("side_adapter.", "clip.visual."),
    "FC-CLIP": ("backbone.clip_model.", "void_embedding."),
    "SCAN": ("learnable_weight", "sem_seg_head.predictor."),
    "OVSeg": ("clip_adapter.", "sem_seg_head.predictor."),
    "Mask2Former": ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.transformer_cross_attention_layers."),
    "CAT-Seg": ("sem_seg_head.predictor.transformer.", "upsample1."),
    "SED": ("sem_seg_head.predictor.transformer.decoder3.", "sem_seg_head.predictor.clip_model.visual.trunk."),
    "CAT-Seg v1": ("sem_seg_head.predictor.",),
    "MaskCLIP": ("decode_head.text_embeddings", "backbone."),
    "SegCLIP": ("vis_mae_decoder.", "clip.visual."),
    "CLIP": ("visual.", "token_embedding."),
}


def recognise_checkpoint(names: Iterable[str]) -> str | None:
    """The system whose published checkpoints have such tensor names, None where it is not known."""
    names = list(names)
    for system, prefixes in _SIGNATURES.items():
        if all(any(name.startswith(prefix) for name in names) for prefix in prefixes):
            return system
    return None

"""ODISE from a config."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from twostage.clip.keys import TemplateSet
from twostage.clip.loading import ClipModel, Tokenizer, load_clip, load_clip_from_config
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.clip.towers.vit import require_vit
from twostage.errors import UserError
from twostage.proposals.generator import build_decoders
from twostage.proposals.losses import MaskLosses
from twostage.segmenter import shared_arguments
from twostage.systems.two_stage.ensemble import GeometricEnsemble
from twostage.systems.two_stage.odise.captioner import ImplicitCaptioner
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion
from twostage.systems.two_stage.odise.diffusion.networks import build_autoencoder, build_unet
from twostage.systems.two_stage.odise.diffusion.stable_diffusion import (
    EMPTY_PROMPT,
    load_stable_diffusion,
    read_diffusion_weights,
)
from twostage.systems.two_stage.odise.features import NAMES, DiffusionFeatures
from twostage.systems.two_stage.odise.keys import COARSEST_STRIDE
from twostage.systems.two_stage.trained_names import trained_names


def arguments_from_config(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of `ODISE`.

    Where MODEL.WEIGHTS names a checkpoint, CLIP and the diffusion model are not read here: ours hold the whole model, and for
    an official one, which holds the trained part only, they are read when it is loaded.
    """
    keys = cfg.MODEL.ODISE
    clip, tokenizer = load_clip_from_config(cfg)
    require_vit(clip.visual, "ODISE")
    features = _features(cfg, clip)
    pixel_decoder, decoder = build_decoders(cfg, dict.fromkeys(NAMES.values(), keys.FEATURE_WIDTH))
    # The category head reads bare names, the word head is trained on prompts.
    head_text = _head_text(cfg, clip, tokenizer, "bare" if keys.SUPERVISION == "label" else "single")
    return {
        **shared_arguments(cfg, clip, tokenizer, size_divisibility=COARSEST_STRIDE),
        "supervision": keys.SUPERVISION,
        "head_text": head_text,
        "features": features,
        "pixel_decoder": pixel_decoder,
        "decoder": decoder,
        "null": _null(cfg, clip, head_text) if keys.SUPERVISION == "label" else None,
        "criterion": MaskLosses.from_config(cfg),
        "grounding_weight": keys.GROUNDING_WEIGHT,
        "ensemble": GeometricEnsemble(seen_weight=keys.SEEN_WEIGHT, unseen_weight=keys.UNSEEN_WEIGHT),
        "train_names": trained_names(cfg, keys.TRAIN_VOCABULARY, "MODEL.ODISE.TRAIN_VOCABULARY"),
        "resize_scores": cfg.MODEL.MASK2FORMER.RESIZE_SCORES,
        "read_frozen": partial(_read_frozen, cfg.clone()),
    }


def _features(cfg: CfgNode, clip: ClipModel) -> DiffusionFeatures:
    keys = cfg.MODEL.ODISE
    diffusion = keys.DIFFUSION
    captioner = ImplicitCaptioner(
        embedding=clip.visual.proj.shape[1],
        tokens=diffusion.PROMPT_TOKENS,
        width=diffusion.PROMPT_WIDTH,
        time_width=4 * diffusion.UNET_CHANNELS[0],
    )
    model = LatentDiffusion(
        vae=build_autoencoder(diffusion.VAE_CHANNELS),
        unet=build_unet(diffusion.UNET_CHANNELS, heads=diffusion.HEADS, prompt_width=diffusion.PROMPT_WIDTH),
        recompute=diffusion.RECOMPUTE,
    )
    if diffusion.PRETRAINED and not cfg.MODEL.WEIGHTS:
        load_stable_diffusion(model, captioner, diffusion.PRETRAINED)
    return DiffusionFeatures(
        captioner=captioner,
        diffusion=model,
        width=keys.FEATURE_WIDTH,
        bottleneck=keys.BOTTLENECK_WIDTH,
        crop_size=keys.CROP_SIZE,
        crop_batch=keys.CROP_BATCH,
    )


def _head_text(cfg: CfgNode, clip: ClipModel, tokenizer: Tokenizer, templates: TemplateSet) -> TextEmbedder:
    return TextEmbedder(
        clip=clip,
        tokenizer=tokenizer,
        templates=TEMPLATES[templates],
        split_synonyms=True,
        plain=True,
        batch_size=cfg.MODEL.CLIP.TEXT_BATCH_SIZE,
        cache_folder=cfg.MODEL.CLIP.TEXT_CACHE,
    )


def _null(cfg: CfgNode, clip: ClipModel, head_text: TextEmbedder) -> Tensor:
    """Where the null embedding `[1, E]` starts: at the text embedding of nothing, or where CLIP's weights come later at 0."""
    if not cfg.MODEL.CLIP.PRETRAINED or cfg.MODEL.WEIGHTS:
        return torch.zeros(1, clip.text_projection.shape[1])
    return head_text.embed_names([""])


def _read_frozen(cfg: CfgNode, source: str) -> dict[str, Tensor]:
    """CLIP and the diffusion model under the names of `ODISE`, for the official checkpoint `source`.

    Raises:
        UserError: one of them is not named, or can't be read.
    """
    for key, value in (
        ("MODEL.CLIP.PRETRAINED", cfg.MODEL.CLIP.PRETRAINED),
        ("MODEL.ODISE.DIFFUSION.PRETRAINED", cfg.MODEL.ODISE.DIFFUSION.PRETRAINED),
    ):
        if not value:
            raise UserError(
                f"checkpoint '{source}' holds ODISE's trained part only, and {key} '' would leave a frozen part random; name "
                "the file that it comes from"
            )
    clip, _ = load_clip(cfg.MODEL.CLIP.NAME, pretrained=cfg.MODEL.CLIP.PRETRAINED, quick_gelu=cfg.MODEL.CLIP.QUICK_GELU)
    tensors = read_diffusion_weights(cfg.MODEL.ODISE.DIFFUSION.PRETRAINED)
    prompt = tensors.pop(EMPTY_PROMPT)
    return {
        **{f"clip.{name}": tensor for name, tensor in clip.state_dict().items()},
        **{f"features.diffusion.{name}": tensor for name, tensor in tensors.items()},
        f"features.captioner.{EMPTY_PROMPT}": prompt,
    }

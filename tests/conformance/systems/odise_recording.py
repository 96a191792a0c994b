"""Intermediates of one ODISE pass, under the names of the reference cases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch import Tensor

from conformance.recording import Arrays
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.queries import MaskedQueries
from twostage.systems.two_stage.odise import features as features_module
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion, Prompt
from twostage.systems.two_stage.odise.features import NAMES
from twostage.systems.two_stage.odise.heads import MaskEmbedding
from twostage.systems.two_stage.odise.model import ODISE

# Layers after which the cases keep a prediction.
_AUXILIARY = (0, 4)


@contextlib.contextmanager
def recording(model: ODISE, arrays: Arrays) -> Iterator[None]:
    """Keep the intermediates of one inference pass in `arrays`."""
    hooks = [
        model.features.register_forward_hook(
            lambda _m, _i, out: arrays.update({f"s{s.bit_length() - 1}": out[name] for s, name in NAMES.items()})
        ),
        model.pixel_decoder.register_forward_hook(
            lambda _m, _i, out: arrays.update(mask_features=out.mask_features, pixel_decoder_s5=out.levels[0])
        ),
    ]
    attention_mask, pooled = MaskedDecoder.attention_mask, MaskEmbedding.pooled
    queries: list[Tensor] = []

    def record_mask(self: MaskedDecoder, given: Tensor, *args: Any) -> Tensor:
        queries.append(given)
        return attention_mask(self, given, *args)

    def record_pooled(self: MaskEmbedding, *args: Any) -> Tensor:
        arrays["mask_pooled_features"] = pooled(self, *args)
        return arrays["mask_pooled_features"]

    with (
        _recording_first_crop(arrays),
        mock.patch.object(MaskedDecoder, "attention_mask", record_mask),
        mock.patch.object(MaskEmbedding, "pooled", record_pooled),
    ):
        yield
    for hook in hooks:
        hook.remove()
    features = arrays["mask_features"]
    for index in _AUXILIARY:
        masks = (model.decoder.mask_embed(queries[index]) @ features.flatten(2)).unflatten(2, features.shape[2:])
        arrays[f"aux{index}_pred_masks"] = masks
        arrays[f"aux{index}_mask_embed"] = model.mask_embedding(MaskedQueries(queries[index], masks), features)


@contextlib.contextmanager
def _recording_first_crop(arrays: Arrays) -> Iterator[None]:
    """What the diffusion model takes and gives for the first crop."""
    embed, forward = features_module.embed_crops, LatentDiffusion.forward
    encode, add_noise = LatentDiffusion.encode, LatentDiffusion.add_noise

    def first(name: str, value: Tensor) -> None:
        # A later crop does not replace it.
        arrays.setdefault(f"crop0_{name}", value[:1])

    def record_embed(visual: Any, crops: Tensor) -> Tensor:
        out = embed(visual, crops)
        first("image", crops)
        first("clip_embed", out)
        return out

    def record_forward(self: LatentDiffusion, crops: Tensor, prompt: Prompt) -> list[Tensor]:
        first("cond_inputs", prompt.context)
        first("cond_emb", prompt.time)
        taps = forward(self, crops, prompt)
        for index, tap in enumerate(taps):
            first(f"tap{index}", tap)
        return taps

    def record_encode(self: LatentDiffusion, crops: Tensor) -> Any:
        latents, taps = encode(self, crops)
        first("latent", latents)
        return latents, taps

    def record_noise(self: LatentDiffusion, latents: Tensor) -> Tensor:
        out = add_noise(self, latents)
        first("noisy_latent", out)
        return out

    with (
        mock.patch.object(features_module, "embed_crops", record_embed),
        mock.patch.object(LatentDiffusion, "forward", record_forward),
        mock.patch.object(LatentDiffusion, "encode", record_encode),
        mock.patch.object(LatentDiffusion, "add_noise", record_noise),
    ):
        yield

"""Keeps the intermediates of Mask-Adapter's network, under the names of the cases."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conformance.recording import Arrays, Hook, after, hooked, keep, keep_input, patched
from twostage.clip.towers.convnext import dense_embeddings
from twostage.systems.two_stage.fcclip.model import SynonymText, with_void
from twostage.systems.two_stage.heads import EncodedMasks
from twostage.systems.two_stage.mask_adapter import adapter as adapter_module
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps, map_weights


@contextlib.contextmanager
def recording_adapter(model: Any, arrays: Arrays) -> Iterator[None]:
    """Within, what the adapter of `model` does in one pass is kept in `arrays`."""

    def keep_maps(args: Any, maps: Tensor) -> None:
        arrays.update(adapter_masks=args[1].float(), activation_maps=maps.flatten(1, 2))

    def keep_pooled(embeddings: Tensor, visual: Any, res5: Tensor, maps: Tensor) -> None:
        arrays.update(pooled_arrays(visual, res5, maps.detach()), region_embedding=embeddings)

    hooks: list[Hook] = [*adapter_hooks(model.adapter, arrays), (model.adapter, keep_maps)]
    with hooked(hooks), patched(after(adapter_module, "pooled_by_maps", keep_pooled)):
        yield


def adapter_hooks(adapter: MaskMaps, arrays: Arrays) -> list[Hook]:
    """Of the network's layers; masks are folded into the batch."""
    first, third = adapter.blocks[0], adapter.blocks[-1]
    return [
        (adapter.mask_encoder, lambda _a, out: arrays.update(mask_embedding=adapter.mask_proj(out.detach()))),
        (first, keep_input(arrays, "fuse")),
        (first, keep(arrays, "block1")),
        (third, keep(arrays, f"block{len(adapter.blocks)}")),
    ]


@torch.no_grad()
def pooled_arrays(visual: Any, res5: Tensor, maps: Tensor) -> Arrays:
    """Of maps `[B, N, K, h, w]`."""
    weights = map_weights(maps.flatten(1, 2))
    pooled = weights @ res5.flatten(2).mT
    arrays = {"map_weights": weights, "map_pooled": pooled}
    if visual is not None:
        arrays["map_embedding"] = dense_embeddings(visual, pooled.mT[..., None])[..., 0].mT
    return arrays


def encoded_arrays(model: Any, encoded: EncodedMasks, words: SynonymText, void: nn.Embedding) -> Arrays:
    """What the adapter and the transfer read."""
    assert encoded.dense is not None
    arrays = {"clip_res5": encoded.dense.res5, "adapter_feature": encoded.dense.embeddings}
    if model.transfer is not None:
        names, _ = with_void(words, void)
        arrays |= {"cdt_text_in": names, "cdt_text_out": model.transfer(names, encoded.dense.embeddings)}
    return arrays

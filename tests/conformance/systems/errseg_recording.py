"""Keeps the intermediates of one ERR-Seg pass, block by block of classes, for reference cases."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from conformance.recording import Arrays, Hook, after, hooked, patched
from twostage.inference.early_rejection import PixelVotes
from twostage.systems.one_stage.cost_aggregation.kept_classes import among_all, take_classes
from twostage.systems.one_stage.errseg.aggregator import Aggregator, Costs, Guidance
from twostage.systems.one_stage.errseg.model import Encoded, ERRSeg

# Name of a case's array -> its blocks of classes `[B, t, ...]`, or its single value.
Recorded = dict[str, list[Tensor]]


@contextlib.contextmanager
def recording_model(model: ERRSeg) -> Iterator[Recorded]:
    """Keep what the trunk and the aggregator put out during a pass, under the names of the cases."""
    recorded: Recorded = defaultdict(list)
    trunk: Any = model.clip.visual.trunk
    hooks: list[Hook] = [(trunk.stem, lambda args, _o: recorded["clip_input"].append(args[0]))]
    for index, stage in enumerate(trunk.stages):
        hooks.append((stage, lambda _a, out, name=f"vis_os{4 << index}": recorded[name].append(out)))
    fine: Any = model.fine_pass
    # So called whatever its side is.
    hooks.append((fine.conv, lambda _a, out: recorded["os16_downsampled_41"].append(out)))
    # The blocks of the last stage run twice; the second time is the stride-16 path.
    hooks.append((trunk.stages[3].blocks, lambda args, out: recorded["stage3"].extend((args[0], out))))
    with hooked(hooks), recording_aggregator(model.aggregator, recorded):
        yield recorded
    _, _, recorded["os16_stage3_in"], recorded["os16_stage3_out"] = ([x] for x in recorded.pop("stage3"))


@contextlib.contextmanager
def recording_aggregator(aggregator: Aggregator, recorded: Recorded) -> Iterator[None]:
    """`recording_model` for the aggregator's parts and the votes."""

    def keep(name: str) -> Any:
        return lambda _args, out: recorded[name].append(out)

    hooks: list[Hook] = [(aggregator.head, lambda _a, out: recorded["head"].append(out))]
    replaced = [
        after(aggregator, "embed_costs", lambda out, *_: recorded["corr_embed"].append(out)),
        after(aggregator, "text_guidance", lambda out, *_: recorded["text_guidance"].append(out)),
        after(PixelVotes, "votes", lambda out, *_: recorded["votes"].append(out)),
    ]
    layers: Any = aggregator.layers
    for index, layer in enumerate(layers):
        hooks += [
            (layer.spatial.attention, keep(f"layer{index}_spatial_attention")),
            (layer.spatial, keep(f"layer{index}_spatial")),
            (layer, lambda _a, out, name=f"layer{index}_class": recorded[name].extend(out)),
        ]
        name = f"layer{index}_class_block"
        replaced.append(
            after(layer.classes, "_unpool", lambda _o, tokens, _b, name=name: recorded[name].append(tokens))
        )
    hooks += [(stage, keep(f"up{number}")) for number, stage in enumerate(aggregator.decoder, start=1)]
    with hooked(hooks), patched(*replaced):
        yield


def aggregator_arrays(recorded: Recorded) -> Arrays:
    """What was recorded, as the cases store it: classes folded into the batch, all blocks together."""
    arrays = Arrays()
    for name, parts in recorded.items():
        if name == "votes":
            arrays[name] = torch.stack(parts)
        elif name.endswith("_class_block"):
            # `[B, K, N, C]`; the cases fold pixels into the batch.
            arrays[name] = torch.cat(parts, dim=1).transpose(1, 2).flatten(0, 1)
        elif name.endswith("_spatial_attention"):
            arrays[name] = torch.cat(parts, dim=1).flatten(2, 3).flatten(0, 1)
        elif name.startswith(("layer", "up", "corr_embed")):
            arrays[name] = torch.cat(parts, dim=1).flatten(0, 1)
        elif name != "head":
            (arrays[name],) = parts
    return arrays


def cost_arrays(aggregator: Aggregator, costs: Costs, kept: Costs) -> Arrays:
    """Cost maps of all classes, and those of the `kept` ones as the published code embeds them, before they are fused."""
    embedded = [embed(cost.flatten(0, 1)) for embed, cost in zip(aggregator.costs, kept, strict=True)]
    return {
        "corr_os16": costs.fine.transpose(1, 2),
        "corr_os32": costs.coarse.transpose(1, 2),
        "corr_embed_os16": embedded[0],
        "corr_embed_os32": embedded[1],
    }


def model_arrays(model: ERRSeg, encoded: Encoded, text: Tensor, kept: Tensor) -> Arrays:
    """Embeddings, costs and guidance under the names of the cases."""
    costs = model.costs(encoded, text)
    chosen = Costs(*(take_classes(cost, kept) for cost in costs))
    return {
        "vis_os16_dense": encoded.fine,
        "vis_clip_vis_dense": encoded.coarse,
        "text_features": text,
        "selected": kept,
        **cost_arrays(model.aggregator, costs, chosen),
        **guidance_arrays(encoded.guidance),
    }


def guidance_arrays(guidance: Guidance) -> Arrays:
    """Guidance under the names of the cases."""
    return {
        "img_guidance": guidance.appearance,
        **{f"dec_guidance{index}": maps for index, maps in enumerate(guidance.decoder)},
    }


def logit_arrays(blocks: list[Tensor], kept: Tensor, num_classes: int) -> Arrays:
    """The head's output, and its place among all classes, from its blocks `[B * t, 1, ...]`."""
    logits = torch.cat([block.unflatten(0, (len(kept), -1)) for block in blocks], dim=1)
    return {"head": logits.flatten(0, 1), "logits": among_all(logits[:, :, 0], kept, num_classes)}

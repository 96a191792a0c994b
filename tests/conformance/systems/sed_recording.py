"""Keeps the intermediates of one SED pass, block by block, for reference cases."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from conformance.recording import Arrays, Hook, after, hooked, patched
from twostage.inference.early_rejection import EarlyRejection
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.sed.decoder import ImageFeatures, SEDDecoder
from twostage.systems.one_stage.sed.model import SED

# Name of a case's array -> its blocks of classes.
Recorded = dict[str, list[Tensor]]


@contextlib.contextmanager
def recording_model(model: SED) -> Iterator[Recorded]:
    """Keep what the parts put out during a pass, under the names of the cases."""
    recorded: Recorded = defaultdict(list)
    trunk = model.clip.visual.trunk
    hooks: list[Hook] = [
        (trunk.stem, lambda args, _o: recorded["clip_input"].append(args[0])),
        (trunk.stem, lambda _a, out: recorded["vis_stem"].append(out)),
    ]
    for i, stage in enumerate(trunk.stages):
        hooks.append((stage, lambda _a, out, name=f"vis_res{i + 2}": recorded[name].append(out)))
    with hooked(hooks), recording_decoder(model.decoder, recorded):
        yield recorded


@contextlib.contextmanager
def recording_decoder(decoder: SEDDecoder, recorded: Recorded) -> Iterator[None]:
    """`recording_model` for the decoder's parts and for the classes that survive each step."""
    hooks: list[Hook] = []
    stages: Any = decoder.stages
    for number, stage in enumerate(stages, start=1):
        hooks += [
            (stage.spatial, lambda _a, out, name=f"dec{number}_cnext": recorded[name].append(out)),
            (stage.fusion, lambda _a, out, name=f"dec{number}_out": recorded[name].append(out)),
            (stage.fusion, lambda args, _o, name=f"dec{number}_attn": recorded[name].append(args[0])),
            (
                stage.fusion,
                lambda args, _o, name=f"dec{number}_up", f=stage.fusion: recorded[name].append(f.upsample(args[0])),
            ),
        ]
    early = decoder.early_logits

    def keep_head(out: Tensor, index: int, _x: Tensor) -> None:
        recorded["head" if index == len(decoder.stages) else f"aux_head{index}"].append(out[:, :, None])

    def record_early(*args: Any) -> Iterator[Tensor]:
        for block in early(*args):
            recorded["aux_head0"].append(block[None, :, None])
            yield block

    def keep_kept(out: Tensor, *_: Any) -> None:
        recorded[f"selected{sum(name.startswith('selected') for name in recorded)}"].append(out)

    with (
        hooked(hooks),
        patched(
            after(decoder, "head", keep_head),
            (decoder, "early_logits", record_early),
            after(EarlyRejection, "kept", keep_kept),
        ),
    ):
        yield


def model_arrays(model: SED, features: ImageFeatures, text: Tensor, recorded: Recorded) -> Arrays:
    """Intermediates under the names of the cases, from what was recorded in one pass and from the decoder's own parts."""
    decoder = model.decoder
    cost = cost_map(features.embeddings, text)
    arrays: Arrays = {
        name: torch.cat(parts, dim=int(name.startswith(("dec", "aux", "head")))) for name, parts in recorded.items()
    }
    for name, array in arrays.items():
        if re.fullmatch(r"dec\d_attn", name):
            arrays[name] = array.transpose(1, 2)
        elif name.startswith(("dec", "aux", "head")):
            # The cases fold classes into the batch.
            arrays[name] = array.flatten(0, 1)
    arrays |= {f"guid{i}": guidance for i, guidance in enumerate(features.guidance)}
    arrays |= {f"corr_guid{i}": decoder.cost_guidance(cost, i).flatten(0, 1) for i in range(len(decoder.stages))}
    return arrays | {
        "text_features": text,
        "vis_clip_vis_dense": features.embeddings,
        "cost_map": cost.transpose(1, 2),
        "cost_embed": decoder.embed_cost(cost).flatten(0, 1),
    }

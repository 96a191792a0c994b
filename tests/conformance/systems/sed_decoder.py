"""SED's decoder alone on inputs that a case gives as formulas, with and without early rejection."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison
from conformance.formulas import evaluate
from conformance.inputs import as_stored
from conformance.recording import Arrays
from conformance.seeded import seeded_tensor
from conformance.systems.sed_recording import Recorded, recording_decoder
from twostage.inference.early_rejection import EarlyRejection
from twostage.systems.one_stage.sed.building import build_decoder
from twostage.systems.one_stage.sed.decoder import ImageFeatures, SEDDecoder
from twostage.systems.one_stage.sed.weights import checkpoint_table

_OFFICIAL = "sem_seg_head.predictor.transformer."


def check_decoder(case: Case, cfg: CfgNode) -> list[Comparison]:
    """Compare every array of a case of the decoder with ours."""
    meta, arrays = case.meta, Arrays()
    # What the formulas of the inputs say anyhow.
    case.told("D", "h", "w", "T", "weights")
    inputs = {name: _drawn(formula) for name, formula in meta["inputs"].items()}
    backbone = [inputs[f"res{level}"] for level in (4, 3, 2)]
    decoder = build_decoder(cfg, _widths(backbone)).eval()
    _load(decoder, meta["weight_seed"])
    text = inputs["text"][0]
    with torch.inference_mode():
        features = ImageFeatures(inputs["emb"], decoder.visual_guidance(backbone))
        arrays["aux0"], arrays["aux1"], arrays["aux2"], _ = decoder(features, text)
        logits, _ = decoder.predict(features, text)
        if meta.get("topk"):
            arrays |= _with_rejection(decoder, features, text, meta["topk"])
    arrays |= {"emb": features.embeddings, "text": text[None], "logit": logits[None], "argmax": logits.argmax(dim=0)}
    for name in ("argmax", "cer_argmax"):
        if name in arrays:
            arrays[name] = as_stored(case, name, arrays[name])
    return case.compare_all(arrays)


def _with_rejection(decoder: SEDDecoder, features: ImageFeatures, text: Tensor, top_k: int) -> Arrays:
    recorded: Recorded = defaultdict(list)
    with recording_decoder(decoder, recorded):
        fast, kept = decoder.predict(features, text, EarlyRejection(top_k=top_k))
    probabilities = torch.zeros(1, len(text), *fast.shape[1:])
    probabilities[0, kept] = fast.sigmoid()
    arrays: Arrays = {name: parts[0] for name, parts in recorded.items() if name.startswith("selected")}
    for step in range(len(decoder.stages)):
        arrays[f"cer_aux{step}"] = torch.cat(recorded[f"aux_head{step}"], dim=1)[:, :, 0]
    return arrays | {
        "cer_prob": probabilities,
        "selected_final": kept,
        "cer_argmax": probabilities[0].argmax(dim=0),
    }


def _drawn(formula: str) -> Tensor:
    """`seeded_tensor('res4',(1,512,16,16),16)*sqrt(512*16*16)*0.1` and the like."""
    functions: dict[str, Any] = {"seeded_tensor": seeded_tensor, "sqrt": math.sqrt, "F.normalize": F.normalize}
    return evaluate(formula, **functions)


def _widths(backbone: list[Tensor]) -> tuple[int, ...]:
    """Channels of the backbone's maps from res2 to res5; the decoder does not see the last, which has twice as many."""
    widths = [x.shape[1] for x in reversed(backbone)]
    return (*widths, 2 * widths[-1])


def _load(decoder: SEDDecoder, seed: int) -> None:
    """Weights seeded by the decoder's own official names, without those of the model around it."""
    table = checkpoint_table()
    official = table.to_official({f"decoder.{name}": value for name, value in decoder.state_dict().items()})
    values = {name: seeded_tensor(name.removeprefix(_OFFICIAL), v.shape, seed) for name, v in official.items()}
    ours = table.to_ours(values, source="seeded weights")
    decoder.load_state_dict({name.removeprefix("decoder."): value for name, value in ours.items()})

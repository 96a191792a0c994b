"""ERR-Seg's class selection and decoder alone, on inputs that a case gives as formulas."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal
from conformance.formulas import evaluate
from conformance.recording import Arrays
from conformance.seeded import seeded_state, seeded_tensor
from conformance.systems.errseg_recording import (
    Recorded,
    aggregator_arrays,
    cost_arrays,
    guidance_arrays,
    logit_arrays,
    recording_aggregator,
)
from twostage.clip.towers.convnext import Pyramid
from twostage.inference.early_rejection import PixelVotes
from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.kept_classes import take_classes
from twostage.systems.one_stage.errseg.aggregator import Aggregator, Costs
from twostage.systems.one_stage.errseg.building import build_aggregator
from twostage.systems.one_stage.errseg.selection import select_classes
from twostage.systems.one_stage.errseg.weights import checkpoint_table


def check_selection(case: Case) -> list[Comparison]:
    """Votes and kept classes of every sub-case."""
    rows = []
    case.told("what")
    for entry in case.meta["subcases"]:
        cost = evaluate(
            entry["corr"], seeded_tensor=seeded_tensor, sqrt=math.sqrt, seed=case.meta["weight_seed"]
        ).transpose(1, 2)
        assert cost.shape == (entry["B"], entry["T"], 1, entry["h"], entry["w"])
        present = entry["gt_classes"] and [torch.tensor(classes) for classes in entry["gt_classes"]]
        kept = select_classes(cost, entry["slots"], present)
        votes = torch.stack([PixelVotes(slots=entry["slots"]).votes([image.mean(dim=1)]) for image in cost])
        name = entry["name"]
        rows.append(compare_equal(f"{name} kept", kept.tolist(), entry["selected"]))
        rows.append(compare_equal(f"{name} voted", (votes > 0).sum(dim=1).tolist(), entry["classes_with_votes"]))
        stored = {f"{name}_votes": votes, f"{name}_selected": kept}
        rows += [case.compare(key, array) for key, array in stored.items() if key in case.names]
    return rows


def check_decoder(case: Case, cfg: CfgNode) -> list[Comparison]:
    """Compare every array of a case of the decoder with ours."""
    meta = case.meta
    # What the formulas of the inputs say anyhow.
    case.told("what", "B", "T", "D", "h", "w", "clamp")
    inputs = {name: _drawn(text, meta["weight_seed"]) for name, text in meta["inputs"].items() if name != "note"}
    text = inputs["text"][0]
    pyramid = Pyramid(*(inputs[f"os{stride}"] for stride in (4, 8, 16, 32)))
    aggregator = _aggregator(cfg, case, pyramid, text.shape[-1])
    recorded: Recorded = defaultdict(list)
    with torch.inference_mode():
        costs = Costs(cost_map(inputs["emb16"], text), cost_map(inputs["emb32"], text))
        guidance = aggregator.guidance(pyramid)
        with recording_aggregator(aggregator, recorded):
            kept = select_classes(costs.fine, meta["slots"])
            chosen = Costs(*(take_classes(cost, kept) for cost in costs))
            words = take_classes(text.expand(len(kept), -1, -1, -1), kept)
            aggregator(chosen, words, guidance)
        arrays: Arrays = {"selected": kept, **cost_arrays(aggregator, costs, chosen)}
    arrays |= guidance_arrays(guidance) | aggregator_arrays(recorded)
    arrays |= logit_arrays(recorded["head"], kept, len(text))
    return case.compare_all(arrays | {"argmax": arrays["logits"].argmax(dim=1)})


def _drawn(formula: str, seed: int) -> Tensor:
    """`N('a',(1,640,1,1)) + 0.5*N('b',(2,640,12,16)) (the same constant)` and the like, N of unit variance."""

    def normal(name: str, shape: tuple[int, ...]) -> Tensor:
        return seeded_tensor(name, shape, seed) * math.sqrt(math.prod(shape[1:]))

    words = re.sub(r", the same .*$| \(the same .*$", "", formula)
    functions: dict[str, Any] = {"N": normal, "F.normalize": F.normalize}
    return evaluate(words, **functions)


def _aggregator(cfg: CfgNode, case: Case, pyramid: Pyramid, embedding: int) -> Aggregator:
    """With seeded weights, without the model around it."""
    aggregator = build_aggregator(cfg, [maps.shape[1] for maps in pyramid], embedding).eval()
    table, prefix = checkpoint_table(), "aggregator."
    own = {f"{prefix}{name}": value for name, value in aggregator.state_dict().items()}
    official = seeded_state(
        table.to_official(own), seed=case.meta["weight_seed"], gains=case.meta["weights"]["weight_gains"]
    )
    ours = table.to_ours(official, source="seeded weights")
    aggregator.load_state_dict({name.removeprefix(prefix): value for name, value in ours.items()})
    return aggregator

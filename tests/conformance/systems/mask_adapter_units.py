"""Mask-Adapter's network alone, on inputs that a case gives in words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conformance.case import Case
from conformance.comparison import Comparison
from conformance.recording import Arrays, Hook, hooked, keep
from conformance.seeded import seeded_image, seeded_state, stream
from conformance.systems.mask_adapter_recording import adapter_hooks, pooled_arrays
from twostage.errors import UserError
from twostage.systems.two_stage.mask_adapter.adapter import MaskMaps
from twostage.systems.two_stage.mask_adapter.weights import ADAPTER, checkpoint_table


@torch.no_grad()
def check_head(case: Case) -> list[Comparison]:
    """Maps and pooled features of drawn features and masks."""
    meta, arrays = case.meta, Arrays()
    feature, dense = (_drawn(meta[name], meta["weight_seed"], name) for name in ("feature", "dense"))
    masks = _masks(meta["masks"])
    adapter = MaskMaps(
        embedding=feature.shape[1],
        width=meta["num_channels"],
        mask_channels=meta["mask_in_channels"],
        maps=meta["num_output_maps"],
        blocks=3,
    ).eval()
    _fill(adapter, case)
    with hooked([*adapter_hooks(adapter, arrays), *_layer_hooks(adapter, arrays)]):
        maps = adapter(adapter.shared(feature), masks)
    arrays["mask_downscaling"] = arrays["mask_embedding"]
    arrays |= {"activation_maps": maps.flatten(1, 2), **pooled_arrays(None, dense, maps)}
    return case.compare_all(arrays)


def _layer_hooks(adapter: MaskMaps, arrays: Arrays) -> list[Hook]:
    first: Any = adapter.blocks[0]
    return [
        *((adapter.mask_encoder[i], keep(arrays, f"mask_downscaling_{i}")) for i in (0, 1, 3)),
        (first.conv_dw, keep(arrays, "cnext1_dwconv")),
        *((block, keep(arrays, f"cnext{i}")) for i, block in enumerate(adapter.blocks, start=1)),
        (adapter.norm, keep(arrays, "norm")),
        (adapter.final, keep(arrays, "final")),
    ]


def _fill(adapter: MaskMaps, case: Case) -> None:
    table = checkpoint_table("fcclip", "mixed")
    official = table.to_official({f"{ADAPTER}{name}": value for name, value in adapter.state_dict().items()})
    seeded = seeded_state(official, seed=case.meta["weight_seed"], gains=case.meta["weight_scales"].items())
    case.told("weights_note")
    ours = table.to_ours(seeded, source="seeded weights")
    adapter.load_state_dict({name.removeprefix(ADAPTER): value for name, value in ours.items()})


def _drawn(entry: dict[str, Any], seed: int, name: str) -> Tensor:
    return torch.from_numpy(stream(seed, f"input:{name}").standard_normal(entry["shape"], dtype=np.float32))


def _masks(entry: dict[str, Any]) -> Tensor:
    """`mask n of image b = red channel of seeded_image(H, W, 10*b+n) > 127 (boolean)`, or `/ 255 (soft)`."""
    batch, count, height, width = entry["shape"]
    red = [[seeded_image(height, width, 10 * b + n)[..., 0] for n in range(count)] for b in range(batch)]
    values = torch.from_numpy(np.array(red))
    if threshold := re.search(r"> (\d+)", entry["how"]):
        return values > int(threshold[1])
    if "/ 255" in entry["how"]:
        return values.float() / 255
    raise UserError(f"the case's masks are told in unknown words: {entry['how']!r}")

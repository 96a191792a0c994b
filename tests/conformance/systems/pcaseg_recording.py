"""Keeps the intermediates of one PCA-Seg pass, on top of CAT-Seg's, for reference cases."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from conformance.recording import Hook, hooked
from conformance.systems.catseg_recording import Recording
from twostage.clip.towers.vit import Tokens
from twostage.systems.one_stage.pcaseg import eva
from twostage.systems.one_stage.pcaseg.eva import is_eva

# Which of a layer's blocks.
_WHICH = ("first", "second")
# Called with a name and a block `[V, t, ...]` of classes.
Keep = Callable[[str, Tensor], None]


class ParallelRecording(Recording):
    """`Recording` of a PCA-Seg model."""

    def _record_clip(self) -> None:
        if not is_eva(self.model.clip.visual):
            super()._record_clip()
            return
        trunk: Any = self.model.clip.visual.trunk
        for index, block in enumerate(trunk.blocks):
            self._hook(block, lambda _a, out, name=f"clip_block{index}_out": self.whole.update({name: out}))

        def keep_dense(out: tuple[Tokens, dict[int, Tokens]], images: Tensor) -> None:
            self.whole["clip_dense"], self.whole["clip_input"] = out[0].x[:, 1:], images

        self._observe(self.model, "dense_features", keep_dense)
        self._observe(eva, "self_correlation", lambda out, *_: self.whole.update(clip_last_attn=out))
        self._record_cost()

    def _record_layers(self) -> None:
        layers: Any = self.model.aggregator.layers
        for index, layer in enumerate(layers):
            self._open.enter_context(
                recording_layer(layer, lambda name, block, i=index: self._keep(f"layer{i}_{name}", block))
            )

    @property
    def _layers(self) -> list[Any]:
        """None as CAT-Seg's."""
        return []

    def arrays(self, model: Any, places: Tensor | None) -> dict[str, Any]:
        arrays = super().arrays(model, places)
        for name, value in arrays.items():
            if re.fullmatch(r"layer\d+_(spatial|class|fused)_(first|second)", name):
                arrays[name] = value.unflatten(0, (self.views, -1)).transpose(1, 2)
        # Classes lie folded into the views here.
        folded = {"cost_fed": "cost_volume", "cost_embed": "cost_embed"}
        return arrays | {name: arrays[ours].transpose(1, 2).flatten(0, 1) for name, ours in folded.items()}


@contextlib.contextmanager
def recording_layer(layer: Any, keep: Keep) -> Iterator[None]:
    """Within, `keep` is called with what the two blocks of `layer` do."""
    hooks: list[Hook] = []
    for which, block in zip(_WHICH, layer.blocks, strict=True):
        hooks += _fusion_hooks(block.fusion, which, keep)
    with hooked(hooks):
        yield


def _fusion_hooks(fusion: Any, which: str, keep: Keep) -> list[Hook]:
    # Gate and experts see classes folded into the views; the fusion itself, called around them, tells how many there are.
    folded: dict[str, Tensor] = {}

    def keep_fusion(args: Any, out: Tensor) -> None:
        shape = out.shape[:2]
        for name, value in zip(("spatial", "class", "fused"), (*args, out), strict=True):
            keep(f"{name}_{which}", value)
        with torch.no_grad():
            spatial, classes = (part.flatten(0, 1) for part in args)
            folded["spatial_proj"], folded["class_proj"] = fusion.spatial_proj(spatial), fusion.class_proj(classes)
            folded["residual"] = fusion.residual(torch.cat([folded["spatial_proj"], folded["class_proj"]], dim=1))
        for name, value in folded.items():
            keep(f"{name}_{which}", value.unflatten(0, shape))

    hooks: list[Hook] = [(fusion.gate, lambda _a, out: folded.update(gate=out))]
    for index, expert in enumerate(fusion.experts):
        hooks.append((expert, lambda _a, out, name=f"expert{index}": folded.update({name: out})))
    return [*hooks, (fusion, keep_fusion)]

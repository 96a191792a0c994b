"""Keeps the intermediates of one CAT-Seg pass, whichever way the classes were cut into blocks, for reference cases.

Legend: V recorded views, T classes, t of a block, P templates, C channels, h x w grid, N pixels of the pooled grid.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from conformance.recording import after, hooked, patched
from twostage.clip.towers import vit
from twostage.clip.towers.vit import Tokens
from twostage.systems.one_stage.catseg import model as catseg_model
from twostage.systems.one_stage.catseg.guides import BackboneGuide
from twostage.systems.one_stage.catseg.model import CATSeg
from twostage.systems.one_stage.cost_aggregation.class_attention import Memory


class Recording:
    """A context; after it, `arrays` gives what ran inside under the names of the reference cases."""

    def __init__(self, model: CATSeg, views: int) -> None:
        """
        Args:
            views: how many of the views are kept of what the aggregator does.
        """
        self.model = model
        self.views = views
        self.whole: dict[str, Tensor] = {}
        # How many views the aggregator has finished, and per name, by how many it had when they came, blocks `[V, t, ...]` of
        # the class axis.
        self.finished = 0
        self.parts: dict[str, dict[int, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        # What class attention of a layer has read, likewise.
        self.memories: dict[int, dict[int, Memory]] = defaultdict(dict)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Recording:
        self._record_clip()
        self._record_guidance()
        self._record_layers()
        self._record_decoder()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._open.close()

    def _observe(self, owner: Any, name: str, keep: Any) -> None:
        """`keep(output, *arguments)` after each call of function `name` of `owner`."""
        self._open.enter_context(patched(after(owner, name, keep)))

    def _hook(self, module: Any, keep: Any) -> None:
        """`keep(inputs, output)` after each call of `module`."""
        self._open.enter_context(hooked([(module, keep)]))

    def _record_clip(self) -> None:
        visual, blocks = self.model.clip.visual, list(self.model.clip.visual.transformer.resblocks)

        def keep_block(out: Tensor, block: Any, _x: Tensor) -> None:
            self.whole[f"clip_block{blocks.index(block)}_out"] = out.transpose(0, 1)

        def keep_dense(out: tuple[Tokens, dict[int, Tokens]], images: Tensor) -> None:
            tokens = out[0]
            self.whole["clip_dense"], self.whole["clip_input"] = tokens.x, images
            self.whole["clip_pos_embed_resized"] = vit.resize_position_embedding(
                visual.positional_embedding, tokens.grid
            )

        self._observe(vit, "run_block", keep_block)
        self._observe(self.model, "dense_features", keep_dense)
        self._record_cost()
        self._hook(visual.ln_post, lambda args, _o: self.whole.update(clip_transformer_out=args[0].transpose(0, 1)))

    def _record_cost(self) -> None:
        def keep_cost(out: Tensor, *_: Any) -> None:
            self.whole["cost_volume_all"] = out[: self.views].transpose(1, 2)

        self._observe(catseg_model, "cost_map", keep_cost)
        self._observe(self.model, "class_scores", lambda scores, *_: self.whole.update(logits=scores.logits))

    def _record_guidance(self) -> None:
        aggregator, guide = self.model.aggregator, self.model.guide
        self._observe(aggregator, "_forward", self._finish_views)
        if isinstance(guide, BackboneGuide):
            self._hook(guide.backbone, self._keep_backbone)
        else:
            for index, up in enumerate(guide.upsampling):
                self._hook(up, lambda _a, out, name=f"guidance_res{4 + index}_up": self.whole.update({name: out}))
        self._hook(aggregator.appearance, lambda _a, out: self.whole.update(guidance_proj=out[: self.views].relu()))
        for index, project in enumerate(aggregator.decoder_guidance):
            name = f"decoder_guidance_proj{index}"
            self._hook(project, lambda _a, out, name=name: self.whole.update({name: out[: self.views].relu()}))
        self._hook(aggregator.text, lambda _a, out: self._keep("text_guidance_proj", out.relu()))
        self._hook(aggregator.embed, lambda args, out: self._keep("cost_embed", self._by_view(out)))

    def _keep_backbone(self, args: Any, out: dict[str, Tensor]) -> None:
        self.whole["backbone_input"] = args[0]
        self.whole.update({f"backbone_{name}": value for name, value in out.items()})

    def _record_layers(self) -> None:
        for index, layer in enumerate(self._layers):
            prefix = f"layer{index}_"
            self._hook(
                layer.spatial.guidance_norm,
                lambda _a, out, name=f"{prefix}guidance_norm": self._keep(name, out),
            )
            for number, block in enumerate(layer.spatial.blocks, start=1):
                self._hook(
                    block, lambda _a, out, name=f"{prefix}swin_block{number}": self._keep(name, out.flatten(2, 3))
                )
            self._hook(layer.classes.attention, lambda args, out, i=index: self._keep_attention(i, args, out))
            self._hook(layer, lambda _a, out, name=f"{prefix}out": self._keep(name, torch.cat(out, dim=1)))

    @property
    def _layers(self) -> list[Any]:
        return list(self.model.aggregator.layers)

    def _keep_attention(self, index: int, args: Any, out: Tensor) -> None:
        self._keep(f"layer{index}_class_attention", out)
        if self.finished < self.views:
            self.memories[index][self.finished] = args[1]

    def _record_decoder(self) -> None:
        aggregator = self.model.aggregator
        stages: list[Any] = list(aggregator.decoder)
        for number, stage in enumerate(stages, start=1):
            name = f"decoder{number}_up"
            self._hook(stage, lambda args, _o, name=name, stage=stage: self._keep(name, stage.upsample(args[0])))
            self._hook(stage, lambda _a, out, name=f"decoder{number}_out": self._keep(name, out))
        self._hook(aggregator.head, lambda _a, out: self._keep("decoder_head", self._by_view(out)))

    def _finish_views(self, logits: Tensor, *_: Any) -> None:
        self.finished += len(logits)

    def _by_view(self, folded: Tensor) -> Tensor:
        """`[views * t, ...]` -> `[views, t, ...]` of the views that the aggregator has at a time."""
        together = len(self.whole["clip_input"]) if self.model.training else 1
        return folded.unflatten(0, (together, -1))

    def _keep(self, name: str, block: Tensor) -> None:
        if self.finished < self.views:
            self.parts[name][self.finished].append(block[: self.views - self.finished])

    def arrays(self, model: CATSeg, places: Tensor | None) -> dict[str, Any]:
        """What was kept, in the layout of the cases.

        Args:
            places: `[V, T']`, where each class of the wanted order stands in ours; None for the same order.
        """
        kept = {
            name: torch.cat([torch.cat(blocks, dim=1) for blocks in by_view.values()])
            for name, by_view in self.parts.items()
        }
        padding = {index: self._padding_output(index) for index in range(len(self._layers))}
        guidance = {name: kept.pop(name) for name in list(kept) if name.endswith("guidance_norm")}
        if places is not None:
            kept = {name: _reorder(value, places) for name, value in kept.items()}
        classes = kept["cost_embed"].shape[1]
        arrays: dict[str, Any] = dict(self.whole)
        for name, value in kept.items():
            if name == "text_guidance_proj":
                arrays[name] = value
            elif name.endswith("class_attention"):
                index = int(name[len("layer")])
                arrays[name] = _with_padding(value.transpose(1, 2), padding[index], model.class_slots - classes)
            elif name == "cost_embed" or (name.startswith("layer") and name.endswith("_out")):
                arrays[name] = value.transpose(1, 2)
            else:
                arrays[name] = value.flatten(0, 1)
        for name, maps in guidance.items():
            # [V, h, w, G], the same for all classes.
            wide = maps.flatten(1, 2)[:, None].expand(-1, classes, -1, -1)
            arrays[name] = wide.flatten(0, 1)
        arrays["cost_volume"] = self._cost(places)
        return arrays

    def _cost(self, places: Tensor | None) -> Tensor:
        cost = self.whole["cost_volume_all"]
        kept = catseg_model.best_classes(cost.transpose(1, 2), self.model.class_slots)
        if kept is None or places is None:
            return cost
        return catseg_model.take_classes(cost.transpose(1, 2), kept.gather(1, places)).transpose(1, 2)

    def _padding_output(self, index: int) -> Tensor | None:
        """What the padding class reads in class attention `index`: `[V, 1, N, C]`. The model itself leaves it out."""
        classes = self._layers[index].classes
        if not classes.slots:
            return None
        memory = Memory(*(torch.cat(sums) for sums in zip(*self.memories[index].values(), strict=True)))
        return classes.attention(classes.norm1(classes.padding_token[None]), memory, classes.padding_guidance[None])

    def margin(self, count: int) -> Tensor | None:
        """How much the last chosen class of each view costs more than the first that is not chosen: `[V]`."""
        scores = self.whole["cost_volume_all"].transpose(1, 2).flatten(2).amax(dim=2)
        if not 0 < count < scores.shape[1]:
            return None
        best = scores.topk(count + 1, dim=1).values
        return best[:, count - 1] - best[:, count]


def _reorder(value: Tensor, places: Tensor) -> Tensor:
    return torch.stack([view[index] for view, index in zip(value, places, strict=True)])


def _with_padding(attended: Tensor, padding: Tensor | None, missing: int) -> Tensor:
    """`[V, N, T, C]` and `[V, 1, N, C]` -> `[V * N, slots, C]`"""
    if padding is not None and missing > 0:
        rows = padding[: len(attended)].transpose(1, 2).expand(-1, -1, missing, -1)
        attended = torch.cat([attended, rows], dim=2)
    return attended.flatten(0, 1)

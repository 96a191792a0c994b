"""Names in transformers' layout and in the authors', and ours: the whole network stands under `network.`, as in transformers.

The authors pack queries, keys and values of a self-attention into one tensor, and their projections are convolutions of one
cell, whose weights have a third axis of length 1.
"""

from __future__ import annotations

from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Packed, Rename
from twostage.systems.one_stage.groupvit.card import AUTHORS, CARDS, TRANSFORMERS

_VISION, _TEXT = "network.vision_model.", "network.text_model."
_TEXT_BLOCKS = "text_encoder.transformer.resblocks.{i}."


def groupvit_tables(stages: int) -> tuple[CheckpointTable, ...]:
    """The table of transformers' `model.safetensors`, and that of the authors' `.pth` files.

    Args:
        stages: of the image encoder.
    """
    (card,) = CARDS
    transformers = CheckpointTable(
        system=card.name,
        signatures=(card.signatures[TRANSFORMERS],),
        renames=(Rename("", "network."),),
        dropped={r"text_model\.embeddings\.position_ids": "0, 1, 2, ...: older versions of transformers stored it"},
    )
    authors = CheckpointTable(
        system=card.name,
        signatures=(card.signatures[AUTHORS],),
        packed=(_packed(_TEXT_BLOCKS + "attn.in_proj_", f"{_TEXT}encoder.layers.{{i}}."), *_packed_stages(stages)),
        renames=(
            *(rule for stage in range(stages) for rule in _stage_renames(stage)),
            *_image_renames(),
            *_text_renames(),
            *_projector_renames("img_projector.", "network.visual_projection."),
            *_projector_renames("text_projector.", "network.text_projection."),
            Rename("logit_scale", "network.logit_scale"),
        ),
        dropped={r"multi_label_logit_scale": "the scale of the loss on nouns, used in training alone"},
    )
    return transformers, authors


def _packed(official: str, block: str) -> Packed:
    first, second, third = (f"{block}self_attn.{name}_proj." for name in "qkv")
    return Packed(official, (first, second, third))


def _packed_stages(stages: int) -> list[Packed]:
    return [
        _packed(f"img_encoder.layers.{stage}.blocks.{{i}}.attn.qkv.", f"{_VISION}encoder.stages.{stage}.layers.{{i}}.")
        for stage in range(stages)
    ]


def _stage_renames(stage: int) -> list[Rename]:
    official, ours = f"img_encoder.layers.{stage}.", f"{_VISION}encoder.stages.{stage}."
    block, layer = f"{official}blocks.{{i}}.", f"{ours}layers.{{i}}."
    crossing = "downsample.pre_assign_attn.attn."
    return [
        Rename(f"{block}norm1.", f"{layer}layer_norm1."),
        Rename(f"{block}norm2.", f"{layer}layer_norm2."),
        Rename(f"{block}attn.proj.", f"{layer}self_attn.out_proj."),
        Rename(f"{block}mlp.", f"{layer}mlp."),
        Rename(f"{official}{crossing}proj.", f"{ours}{crossing}out_proj."),
        # The rest of grouping, group tokens and their projector have the same names in both.
        *(Rename(official + part, ours + part) for part in ("downsample.", "group_token", "group_projector.")),
    ]


def _image_renames() -> list[Rename]:
    return [
        Rename("img_encoder.pos_embed", f"{_VISION}embeddings.position_embeddings"),
        Rename("img_encoder.patch_embed.proj.", f"{_VISION}embeddings.patch_embeddings.projection."),
        Rename("img_encoder.patch_embed.norm.", f"{_VISION}embeddings.layernorm."),
        Rename("img_encoder.norm.", f"{_VISION}layernorm."),
    ]


def _text_renames() -> list[Rename]:
    layer = f"{_TEXT}encoder.layers.{{i}}."
    return [
        Rename("text_encoder.token_embedding.", f"{_TEXT}embeddings.token_embedding."),
        Rename("text_encoder.positional_embedding", f"{_TEXT}embeddings.position_embedding.weight"),
        Rename(f"{_TEXT_BLOCKS}attn.out_proj.", f"{layer}self_attn.out_proj."),
        Rename(f"{_TEXT_BLOCKS}ln_1.", f"{layer}layer_norm1."),
        Rename(f"{_TEXT_BLOCKS}ln_2.", f"{layer}layer_norm2."),
        Rename(f"{_TEXT_BLOCKS}mlp.c_fc.", f"{layer}mlp.fc1."),
        Rename(f"{_TEXT_BLOCKS}mlp.c_proj.", f"{layer}mlp.fc2."),
        Rename("text_encoder.ln_final.", f"{_TEXT}final_layer_norm."),
    ]


def _projector_renames(official: str, ours: str) -> list[Rename]:
    """Of a projector: a linear layer, batch norm, ReLU, a linear layer."""
    one_cell = (_drop_cells, _add_cells)
    return [
        Rename(f"{official}linear_hidden.0.weight", f"{ours}0.weight", value=one_cell),
        Rename(f"{official}linear_out.weight", f"{ours}3.weight", value=one_cell),
        Rename(f"{official}linear_out.", f"{ours}3."),
        Rename(f"{official}linear_hidden.", ours),
    ]


def _drop_cells(weight: Tensor) -> Tensor:
    return weight.squeeze(-1)


def _add_cells(weight: Tensor) -> Tensor:
    return weight[..., None]

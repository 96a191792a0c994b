"""Names of official MaskCLIP+ checkpoints (mmseg's) and ours.

The teacher's projections are 1 x 1 convolutions there and matrices here; its ViT's embeddings have leading axes of length 1.
"""

from __future__ import annotations

from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.systems.one_stage.maskclip_plus.card import CARDS

_HEAD = "decode_head."
_CLIP = "decode_head.clip."
_VISUAL = "clip.visual."
_STEM = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}


def _to_conv(matrix: Tensor) -> Tensor:
    return matrix[..., None, None]


def _from_conv(weight: Tensor) -> Tensor:
    return weight[..., 0, 0]


def _to_transposed_conv(matrix: Tensor) -> Tensor:
    return matrix.T[..., None, None]


def _from_transposed_conv(weight: Tensor) -> Tensor:
    return weight[..., 0, 0].T


def _add_axis(tensor: Tensor) -> Tensor:
    return tensor[None]


def _drop_axis(tensor: Tensor) -> Tensor:
    return tensor[0]


def checkpoint_table(*, resnet_teacher: bool) -> CheckpointTable:
    """The table of a model whose teacher is CLIP's ResNet, or its ViT; both heads, with and without a learned background."""
    return CheckpointTable(
        system="MaskCLIP+",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(
            Rename(f"{_HEAD}_iter_counter", "iteration"),
            Rename(f"{_HEAD}bg_embeddings", "background_embedding"),
            *(_resnet_renames() if resnet_teacher else _vit_renames()),
            *_network_renames(),
        ),
        dropped={r"decode_head\.text_embeddings": "made from the class names by the text tower"},
        fresh={
            r"clip\.(?!visual\.).*": "CLIP's text tower, from MODEL.CLIP.PRETRAINED",
            r"clip\.visual\.attnpool\.positional_embedding": "the teacher pools no image, so it has no use for it",
        },
    )


def _vit_renames() -> list[Rename]:
    block = f"{_VISUAL}transformer.resblocks.{{i}}."
    return [
        Rename(
            f"{_CLIP}cls_token",
            f"{_VISUAL}class_embedding",
            value=(lambda t: t[0, 0], lambda t: t[None, None]),
        ),
        Rename(f"{_CLIP}pos_embed", f"{_VISUAL}positional_embedding", value=(_drop_axis, _add_axis)),
        Rename(f"{_CLIP}patch_embed.projection.", f"{_VISUAL}conv1."),
        Rename(f"{_CLIP}ln0.", f"{_VISUAL}ln_pre."),
        Rename(f"{_CLIP}ln1.", f"{_VISUAL}ln_post."),
        Rename(f"{_CLIP}layers.{{i}}.ln1.", f"{block}ln_1."),
        Rename(f"{_CLIP}layers.{{i}}.ln2.", f"{block}ln_2."),
        Rename(f"{_CLIP}layers.{{i}}.attn.attn.", f"{block}attn."),
        Rename(f"{_CLIP}layers.{{i}}.ffn.layers.0.0.", f"{block}mlp.c_fc."),
        Rename(f"{_CLIP}layers.{{i}}.ffn.layers.1.", f"{block}mlp.c_proj."),
        Rename(f"{_HEAD}proj.weight", f"{_VISUAL}proj", value=(_from_transposed_conv, _to_transposed_conv)),
    ]


def _resnet_renames() -> list[Rename]:
    renames = [Rename(f"{_CLIP}stem.{index}.", f"{_VISUAL}{name}.") for index, name in _STEM.items()]
    for stage in (1, 2, 3, 4):
        official, ours = f"{_CLIP}layer{stage}.{{i}}.", f"{_VISUAL}layer{stage}.{{i}}."
        # CLIP pools before it projects; the pooling takes a number there and none here.
        renames += [Rename(f"{official}downsample.{number + 1}.", f"{ours}downsample.{number}.") for number in (0, 1)]
        renames.append(Rename(official, ours))
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        weight = Rename(f"{_HEAD}{name}.weight", f"{_VISUAL}attnpool.{name}.weight", value=(_from_conv, _to_conv))
        renames += [weight, Rename(f"{_HEAD}{name}.bias", f"{_VISUAL}attnpool.{name}.bias")]
    return renames


def _network_renames() -> list[Rename]:
    module = f"{_HEAD}decode_module."
    separable = [
        Rename(f"{module}{official}.{{i}}.{kind}_conv.", f"head.{ours}.{{i}}.{kind}.")
        for official, ours in (("aspp_modules", "branches"), ("sep_bottleneck", "refine"))
        for kind in ("depthwise", "pointwise")
    ]
    return [
        Rename("backbone.stem.7.", "backbone.bn1."),
        Rename("backbone.stem.", "backbone.conv1."),
        Rename("backbone.", "backbone."),
        *separable,
        Rename(f"{module}aspp_modules.", "head.branches."),
        Rename(f"{module}image_pool.1.", "head.image_pool."),
        Rename(f"{module}bottleneck.", "head.bottleneck."),
        Rename(f"{module}c1_bottleneck.", "head.low_level."),
    ]

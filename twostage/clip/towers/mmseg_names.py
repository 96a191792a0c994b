"""CLIP's image tower under the names that MaskCLIP's repository gives it (mmseg's), and ours.

The tower lies under one prefix, its projections to the embedding, 1 x 1 convolutions there and matrices here, under another;
the ViT's embeddings have leading axes of length 1. MaskCLIP's files hold it as the backbone, MaskCLIP+'s as the teacher.
"""

from __future__ import annotations

from torch import Tensor

from twostage.checkpoint.renaming import Rename

_VISUAL = "clip.visual."
_STEM = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}


def tower_renames(tower: str, head: str, *, resnet: bool) -> tuple[Rename, ...]:
    """Rules for CLIP's ResNet or ViT.

    Args:
        tower, head: the official prefixes of the tower and of the projections.
    """
    return _resnet_renames(tower, head) if resnet else _vit_renames(tower, head)


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


def _vit_renames(tower: str, head: str) -> tuple[Rename, ...]:
    block = f"{_VISUAL}transformer.resblocks.{{i}}."
    return (
        Rename(f"{tower}cls_token", f"{_VISUAL}class_embedding", value=(lambda t: t[0, 0], lambda t: t[None, None])),
        Rename(f"{tower}pos_embed", f"{_VISUAL}positional_embedding", value=(_drop_axis, _add_axis)),
        Rename(f"{tower}patch_embed.projection.", f"{_VISUAL}conv1."),
        Rename(f"{tower}ln0.", f"{_VISUAL}ln_pre."),
        Rename(f"{tower}ln1.", f"{_VISUAL}ln_post."),
        Rename(f"{tower}layers.{{i}}.ln1.", f"{block}ln_1."),
        Rename(f"{tower}layers.{{i}}.ln2.", f"{block}ln_2."),
        Rename(f"{tower}layers.{{i}}.attn.attn.", f"{block}attn."),
        Rename(f"{tower}layers.{{i}}.ffn.layers.0.0.", f"{block}mlp.c_fc."),
        Rename(f"{tower}layers.{{i}}.ffn.layers.1.", f"{block}mlp.c_proj."),
        Rename(f"{head}proj.weight", f"{_VISUAL}proj", value=(_from_transposed_conv, _to_transposed_conv)),
    )


def _resnet_renames(tower: str, head: str) -> tuple[Rename, ...]:
    renames = [Rename(f"{tower}stem.{index}.", f"{_VISUAL}{name}.") for index, name in _STEM.items()]
    for stage in (1, 2, 3, 4):
        official, ours = f"{tower}layer{stage}.{{i}}.", f"{_VISUAL}layer{stage}.{{i}}."
        # CLIP pools before it projects; the pooling takes a number there and none here.
        renames += [Rename(f"{official}downsample.{number + 1}.", f"{ours}downsample.{number}.") for number in (0, 1)]
        renames.append(Rename(official, ours))
    for name in ("q_proj", "k_proj", "v_proj", "c_proj"):
        weight = Rename(f"{head}{name}.weight", f"{_VISUAL}attnpool.{name}.weight", value=(_from_conv, _to_conv))
        renames += [weight, Rename(f"{head}{name}.bias", f"{_VISUAL}attnpool.{name}.bias")]
    return tuple(renames)


# What such files leave out, and why our model does not take it from them.
FRESH = {
    r"clip\.(?!visual\.).*": "CLIP's text tower, from MODEL.CLIP.PRETRAINED",
    r"clip\.visual\.attnpool\.positional_embedding": "no image is pooled, so that nothing reads it",
}
DROPPED = {r"decode_head\.text_embeddings": "made from the class names by the text tower"}

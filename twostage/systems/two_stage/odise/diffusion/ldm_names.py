"""Stable Diffusion v1's tensor names in its original ("LDM") layout and in diffusers' networks, which are ours."""

from __future__ import annotations

from torch import Tensor

from twostage.checkpoint.renaming import Rename

_LEVELS = 4
# Parts of a res-block.
_PARTS = {
    "in_layers.0.": "norm1.",
    "in_layers.2.": "conv1.",
    "emb_layers.1.": "time_emb_proj.",
    "out_layers.0.": "norm2.",
    "out_layers.3.": "conv2.",
    "skip_connection.": "conv_shortcut.",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def ldm_renames(ours: str) -> tuple[Rename, ...]:
    """UNet and autoencoder, which lie under `ours` + "unet." and "vae." in our model."""
    return (
        *unet_renames("model.diffusion_model.", f"{ours}unet."),
        *autoencoder_renames("first_stage_model.", f"{ours}vae."),
    )


def unet_renames(theirs: str, ours: str) -> tuple[Rename, ...]:
    """The UNet, its twelve input and twelve output blocks by number."""
    renames = [
        Rename(f"{theirs}time_embed.0.", f"{ours}time_embedding.linear_1."),
        Rename(f"{theirs}time_embed.2.", f"{ours}time_embedding.linear_2."),
        Rename(f"{theirs}input_blocks.0.0.", f"{ours}conv_in."),
        Rename(f"{theirs}out.0.", f"{ours}conv_norm_out."),
        Rename(f"{theirs}out.2.", f"{ours}conv_out."),
        *_res_block(f"{theirs}middle_block.0.", f"{ours}mid_block.resnets.0."),
        Rename(f"{theirs}middle_block.1.", f"{ours}mid_block.attentions.0."),
        *_res_block(f"{theirs}middle_block.2.", f"{ours}mid_block.resnets.1."),
    ]
    for level in range(_LEVELS):
        down, up = f"{ours}down_blocks.{level}.", f"{ours}up_blocks.{level}."
        for index in range(2):
            block = f"{theirs}input_blocks.{1 + 3 * level + index}."
            renames += _res_block(f"{block}0.", f"{down}resnets.{index}.")
            renames.append(Rename(f"{block}1.", f"{down}attentions.{index}."))
        renames.append(Rename(f"{theirs}input_blocks.{3 + 3 * level}.0.op.", f"{down}downsamplers.0.conv."))
        for index in range(3):
            block = f"{theirs}output_blocks.{3 * level + index}."
            renames += _res_block(f"{block}0.", f"{up}resnets.{index}.")
            if level:
                renames.append(Rename(f"{block}1.", f"{up}attentions.{index}."))
        # Where there is no transformer, the upsampling comes right behind the res-block.
        place = 2 if level else 1
        renames.append(Rename(f"{theirs}output_blocks.{3 * level + 2}.{place}.conv.", f"{up}upsamplers.0.conv."))
    return tuple(renames)


def _res_block(theirs: str, ours: str) -> list[Rename]:
    return [Rename(theirs + part, ours + name) for part, name in _PARTS.items()]


def autoencoder_renames(theirs: str, ours: str) -> tuple[Rename, ...]:
    """The autoencoder; its decoder's levels count from fine to coarse, diffusers' from coarse to fine."""
    renames = []
    for level in range(_LEVELS):
        other = _LEVELS - 1 - level
        for side, kind, index in (("encoder", "down", level), ("decoder", "up", other)):
            block, name = f"{theirs}{side}.{kind}.{level}.", f"{ours}{side}.{kind}_blocks.{index}."
            renames += [
                Rename(f"{block}block.{{i}}.nin_shortcut.", f"{name}resnets.{{i}}.conv_shortcut."),
                Rename(f"{block}block.{{i}}.", f"{name}resnets.{{i}}."),
                Rename(f"{block}{kind}sample.", f"{name}{kind}samplers.0."),
            ]
    for side in ("encoder", "decoder"):
        middle, name = f"{theirs}{side}.mid.", f"{ours}{side}.mid_block."
        renames += [
            Rename(f"{middle}block_1.", f"{name}resnets.0."),
            Rename(f"{middle}block_2.", f"{name}resnets.1."),
            Rename(f"{middle}attn_1.norm.", f"{name}attentions.0.group_norm."),
            *(
                Rename(f"{middle}attn_1.{part}.weight", f"{name}attentions.0.{linear}.weight", value=_CONVOLUTION)
                for part, linear in _ATTENTION.items()
            ),
            *(
                Rename(f"{middle}attn_1.{part}.", f"{name}attentions.0.{linear}.")
                for part, linear in _ATTENTION.items()
            ),
            Rename(f"{theirs}{side}.norm_out.", f"{ours}{side}.conv_norm_out."),
            Rename(f"{theirs}{side}.conv_", f"{ours}{side}.conv_"),
        ]
    return (*renames, *(Rename(f"{theirs}{name}.", f"{ours}{name}.") for name in ("quant_conv", "post_quant_conv")))


def _to_linear(weight: Tensor) -> Tensor:
    """A 1x1 convolution `[C, C, 1, 1]` as the matrix of a linear layer; older diffusers files have that already."""
    return weight.flatten(1)


def _to_convolution(weight: Tensor) -> Tensor:
    return weight[..., None, None]


_CONVOLUTION = (_to_linear, _to_convolution)

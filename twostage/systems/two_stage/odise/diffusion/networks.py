"""Stable Diffusion's autoencoder and UNet, built by diffusers (the extra `diffusion`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twostage.errors import UserError
from twostage.torchvision_shim import ensure_torchvision

# diffusers' networks; their parts are beyond what torch's stubs say of a module.
Network = Any

LATENT_CHANNELS = 4
# Res-blocks of a level on the way down; on the way up there is one more.
_LAYERS = 2


def _diffusers() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    ensure_torchvision()
    try:
        import diffusers
    except ImportError as error:
        raise UserError(
            "ODISE runs on the library diffusers, which is not installed; install it by `pip install twostage[diffusion]`"
        ) from error
    return diffusers


def build_autoencoder(channels: Sequence[int]) -> Network:
    """A whole autoencoder (`AutoencoderKL`) with these channels per level, fine to coarse; random weights.

    Raises:
        UserError: diffusers is not installed.
    """
    levels = len(channels)
    return _diffusers().AutoencoderKL(
        block_out_channels=tuple(channels),
        layers_per_block=_LAYERS,
        latent_channels=LATENT_CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


def build_unet(channels: Sequence[int], *, heads: int, prompt_width: int) -> Network:
    """A whole UNet (`UNet2DConditionModel`) of Stable Diffusion v1's shape; random weights.

    Args:
        channels: per level, fine to coarse.
        heads: of the attention at every level.
        prompt_width: channels of the prompt's tokens.

    Raises:
        UserError: diffusers is not installed.
    """
    attending = len(channels) - 1
    return _diffusers().UNet2DConditionModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=tuple(channels),
        layers_per_block=_LAYERS,
        cross_attention_dim=prompt_width,
        # diffusers calls the number of heads so.
        attention_head_dim=heads,
        down_block_types=(*("CrossAttnDownBlock2D",) * attending, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * attending),
    )


def drop_behind_last_tap(autoencoder: Network, unet: Network) -> None:
    """Remove what lies behind the last feature map that ODISE reads (in place): it is never computed, stored or loaded.

    Of the decoder everything from the last res-block of the second level on, of the UNet the last res-block with its
    transformer and the output.
    """
    decoder = autoencoder.decoder
    decoder.up_blocks = decoder.up_blocks[:2]
    decoder.up_blocks[1].resnets = decoder.up_blocks[1].resnets[:_LAYERS]
    decoder.up_blocks[1].upsamplers = None
    last = unet.up_blocks[-1]
    last.resnets, last.attentions = last.resnets[:_LAYERS], last.attentions[:_LAYERS]
    for network in (decoder, unet):
        network.conv_norm_out = network.conv_out = None


# Names (of `LatentDiffusion`) of the tensors that `drop_behind_last_tap` removes.
BEHIND_LAST_TAP = (
    r"vae\.decoder\.up_blocks\.([23]\.|1\.(resnets\.2|upsamplers)\.).*",
    r"vae\.decoder\.conv_(norm_)?out\..*",
    r"unet\.up_blocks\.3\.(resnets|attentions)\.2\..*",
    r"unet\.conv_(norm_)?out\..*",
)


def frozen(network: Network) -> Network:
    """`network` in evaluation mode, none of its parameters trained."""
    return network.eval().requires_grad_(False)

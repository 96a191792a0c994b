"""SAM's tensor names in the authors' checkpoints and in transformers', which are ours but for a tensor stored twice."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from twostage.checkpoint.renaming import Rename
from twostage.foundation.sam_signatures import OFFICIAL

# The code of pixel positions once more, for the whole picture.
_TWICE = "shared_image_embedding.positional_embedding"

_NORMS = tuple(
    Rename(f"{official}.norm{i}.", f"{ours}.layer_norm{i}.")
    for official, ours in (
        ("image_encoder.blocks.{i}", "vision_encoder.layers.{i}"),
        ("mask_decoder.transformer.layers.{i}", "mask_decoder.transformer.layers.{i}"),
    )
    for i in (1, 2, 3, 4)
)
_NECK = ("conv1", "layer_norm1", "conv2", "layer_norm2")
_MASK_EMBED = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
_UPSCALING = {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}
_MLP = ("proj_in", "layers.0", "proj_out")
_HEADS = ("mask_decoder.iou_prediction_head", "mask_decoder.output_hypernetworks_mlps.{i}")

SAM_RENAMES = (
    Rename("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    *_NORMS,
    *(Rename(f"image_encoder.neck.{i}.", f"vision_encoder.neck.{name}.") for i, name in enumerate(_NECK)),
    Rename("image_encoder.blocks.", "vision_encoder.layers."),
    Rename("image_encoder.", "vision_encoder."),
    Rename(
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    Rename("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    *(
        Rename(f"prompt_encoder.mask_downscaling.{i}.", f"prompt_encoder.mask_embed.{name}.")
        for i, name in _MASK_EMBED.items()
    ),
    Rename("prompt_encoder.", "prompt_encoder."),
    *(Rename(f"mask_decoder.output_upscaling.{i}.", f"mask_decoder.{name}.") for i, name in _UPSCALING.items()),
    *(Rename(f"{head}.layers.{i}.", f"{head}.{name}.") for head in _HEADS for i, name in enumerate(_MLP)),
    Rename("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    Rename("mask_decoder.", "mask_decoder."),
)


def with_prefix(prefix: str) -> tuple[Rename, ...]:
    """The table for a network that is called `prefix` (with its dot) in a system."""
    return tuple(Rename(rule.official, prefix + rule.ours) for rule in SAM_RENAMES)


def as_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of either layout under our names; names of neither stay."""
    if not OFFICIAL.matches(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != _TWICE}
    return {
        next((new for rule in SAM_RENAMES if (new := rule.to_ours(name)) is not None), name): tensor
        for name, tensor in tensors.items()
    }

"""What tells SAM's checkpoints from others, in the authors' layout and in transformers'."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature

OFFICIAL = Signature(("image_encoder.patch_embed.", "prompt_encoder.pe_layer.", "mask_decoder.output_upscaling."))
TRANSFORMERS = Signature(("vision_encoder.patch_embed.", "prompt_encoder.", "mask_decoder.upscale_conv1."))

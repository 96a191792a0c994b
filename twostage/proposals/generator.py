"""Mask2Former as a generator of masks: backbone, pixel decoder and masked decoder, without a classifier."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.profiler import record_function

from twostage.proposals.backbones import build_backbone
from twostage.proposals.masked_decoder import MaskedDecoder
from twostage.proposals.pixel_decoder import PixelDecoder
from twostage.proposals.queries import MaskedQueries


class MaskGenerator(nn.Module):
    """Q masks of an image and what their queries know; a system adds the classifier of its own.

    Args:
        backbone: gives res2 to res5.
    """

    def __init__(self, *, backbone: Backbone, pixel_decoder: PixelDecoder, decoder: MaskedDecoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> list[MaskedQueries]:
        """From normalised images `[B, 3, H, W]`: the final output, in training followed by the auxiliary ones."""
        with record_function("backbone"):
            features = self.backbone(images)
        with record_function("pixel decoder"):
            pixels = self.pixel_decoder(features)
        with record_function("masked decoder"):
            return self.decoder(pixels)


def build_mask_generator(cfg: CfgNode) -> MaskGenerator:
    """The generator of `MODEL.MASK2FORMER`, `MODEL.BACKBONE` and the backbone's own keys."""
    backbone = build_backbone(cfg)
    pixel_decoder, decoder = build_decoders(cfg, {name: s.channels or 0 for name, s in backbone.output_shape().items()})
    return MaskGenerator(backbone=backbone, pixel_decoder=pixel_decoder, decoder=decoder)


def build_decoders(cfg: CfgNode, channels: dict[str, int]) -> tuple[PixelDecoder, MaskedDecoder]:
    """Pixel decoder and masked decoder of `MODEL.MASK2FORMER`, for a backbone with these `channels` (res2 to res5)."""
    keys = cfg.MODEL.MASK2FORMER
    shared = {"width": keys.WIDTH, "mask_width": keys.MASK_WIDTH, "heads": keys.HEADS}
    pixel_decoder = PixelDecoder(
        channels=channels,
        layers=keys.ENCODER_LAYERS,
        hidden=keys.ENCODER_HIDDEN,
        points=keys.POINTS,
        **shared,
    )
    decoder = MaskedDecoder(
        num_queries=keys.NUM_QUERIES, layers=keys.DECODER_LAYERS, hidden=keys.DECODER_HIDDEN, **shared
    )
    return pixel_decoder, decoder

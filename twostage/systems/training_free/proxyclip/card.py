"""Card of ProxyCLIP."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, SystemCard
from twostage.systems.training_free.proxyclip.keys import GROUPS

_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")
_DINO = ("proxyclip_dino", *(f"training_free/proxyclip_dino_{name}" for name in _EIGHT))
_DINOV2 = ("proxyclip_dinov2", *(f"training_free/proxyclip_dinov2_{name}" for name in _EIGHT))
_HUB = "https://dl.fbaipublicfiles.com"

CARDS = (
    SystemCard(
        name="ProxyCLIP",
        paradigm="training-free",
        title="ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation",
        venue="ECCV 2024",
        paper="https://arxiv.org/abs/2408.04883",
        code="https://github.com/mc-lan/ProxyCLIP",
        code_licence="NTU S-Lab License 1.0",
        weights_licence="",
        meta_architecture="ProxyClip",
        module="twostage.systems.training_free.proxyclip.model",
        keys=GROUPS,
        configs=(*_DINO, *_DINOV2, "toybox/proxyclip"),
        # Nothing is trained: its files are the foundation model's.
        signatures={
            "DINO": Signature(
                ("cls_token", "pos_embed", "patch_embed.proj.", "blocks.0.attn.qkv.", "norm."),
                absent=("blocks.0.ls1.", "register_tokens", "mask_token", "visual.", "backbone."),
                configs=_DINO,
            ),
            "DINOv2": Signature(
                ("cls_token", "pos_embed", "patch_embed.proj.", "blocks.0.ls1.gamma", "register_tokens"),
                absent=("visual.", "backbone."),
                configs=_DINOV2,
            ),
        },
        checked="all 4 public cases match (DINO, also on VOC21, DINOv2, the attention alone)",
        checkpoints=(
            OfficialCheckpoint(
                name="dino_vitbase8_pretrain.pth",
                source=f"{_HUB}/dino/dino_vitbase8_pretrain/dino_vitbase8_pretrain.pth",
                config="proxyclip_dino",
                train="ImageNet-1k without labels",
                note="DINO alone, Apache-2.0; CLIP comes from MODEL.CLIP.PRETRAINED",
            ),
            OfficialCheckpoint(
                name="dinov2_vitb14_reg4_pretrain.pth",
                source=f"{_HUB}/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
                config="proxyclip_dinov2",
                train="LVD-142M without labels",
                note="DINOv2 alone, Apache-2.0; CLIP comes from MODEL.CLIP.PRETRAINED",
            ),
        ),
    ),
)

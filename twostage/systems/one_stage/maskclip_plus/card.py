"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import SystemCard
from twostage.systems.one_stage.maskclip_plus.keys import GROUPS

CARDS = (
    SystemCard(
        name="MaskCLIP+",
        paradigm="one-stage",
        title="Extract Free Dense Labels from CLIP",
        venue="ECCV 2022",
        paper="https://arxiv.org/abs/2112.01071",
        code="https://github.com/chongzhou96/MaskCLIP",
        code_licence="",
        weights_licence="",
        meta_architecture="MaskClipPlus",
        module="twostage.systems.one_stage.maskclip_plus.model",
        keys=GROUPS,
        configs=(
            "maskclip_plus/r50_coco_stuff",
            "maskclip_plus/r50_context59",
            "maskclip_plus/r50_voc20",
            "maskclip_plus/r50x16_coco_stuff",
            "maskclip_plus/r50x16_context59",
            "maskclip_plus/r50x16_voc20",
            "maskclip_plus/vitb_coco_stuff",
            "maskclip_plus/vitb_context59",
            "maskclip_plus/vitb_voc20",
            "maskclip_plus/zeroshot_r50_coco_stuff",
            "maskclip_plus/zeroshot_r50_context60",
            "maskclip_plus/zeroshot_r50_voc20",
            "maskclip_plus/zeroshot_r50_voc21",
            "toybox/maskclip_plus",
            "toybox/maskclip_plus_zeroshot",
        ),
        signatures={
            "": Signature(
                (
                    "decode_head.text_embeddings",
                    "decode_head.decode_module.",
                    "decode_head.clip.",
                )
            ),
        },
        checked="both public cases match (the training case without its unused distillation term)",
    ),
)

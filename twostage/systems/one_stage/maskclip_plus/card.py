"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.one_stage.maskclip_plus.keys import GROUPS

_ANNOTATION_FREE = ("coco_stuff", "context59", "voc20")

_ONEDRIVE = "https://entuedu-my.sharepoint.com/:u:/g/personal/chong033_e_ntu_edu_sg/"


def _checkpoint(config: str, recipe: str, link: str, *, train: str) -> OfficialCheckpoint:
    """One of the model tables' files, whose names OneDrive hides."""
    return OfficialCheckpoint(
        name=recipe,
        source=f"{_ONEDRIVE}{link}",
        config=f"maskclip_plus/{config}",
        train=train,
        by_hand=True,
        note="a OneDrive page; called here what its recipe is called",
    )


CARDS = (
    SystemCard(
        name="MaskCLIP+",
        paradigm="one-stage",
        title="Extract Free Dense Labels from CLIP",
        venue="ECCV 2022",
        paper="https://arxiv.org/abs/2112.01071",
        code="https://github.com/chongzhou96/MaskCLIP",
        code_licence="Apache-2.0",
        weights_licence="",
        meta_architecture="MaskClipPlus",
        module="twostage.systems.one_stage.maskclip_plus.model",
        keys=GROUPS,
        configs=(
            *(f"maskclip_plus/{clip}_{data}" for clip in ("r50", "r50x16", "vitb") for data in _ANNOTATION_FREE),
            *(f"maskclip_plus/zeroshot_r50_{data}" for data in ("coco_stuff", "context60", "voc20", "voc21")),
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
        checkpoints=(
            _checkpoint(
                "r50_voc20",
                "maskclip_plus_r50_deeplabv2_r101-d8_512x512_2k_voc12aug_20",
                "EeNt1u1qRX1GjhoCMIpxrUQBpQImYcYj31jeu3ID2Ry8BQ?e=QkS9ZA",
                train="VOC 2012 pictures",
            ),
            _checkpoint(
                "r50x16_voc20",
                "maskclip_plus_r50x16_deeplabv2_r101-d8_512x512_2k_voc12aug_20",
                "EQ6RN438ldlFq387xw4CpjUB78XydfMzsNVI9xp5B4CX6Q?e=OBmIWa",
                train="VOC 2012 pictures",
            ),
            _checkpoint(
                "r50_context59",
                "maskclip_plus_r50_deeplabv2_r101-d8_480x480_4k_pascal_context_59",
                "EYEJP_N9TxRDpM-vm6LPKXYBBI4CYVgfoAw13Pvyce6K4A?e=I7Trta",
                train="Pascal Context pictures",
            ),
            _checkpoint(
                "r50x16_context59",
                "maskclip_plus_r50x16_deeplabv2_r101-d8_480x480_4k_pascal_context_59",
                "ETLllAVo0r1MvXAg-tutcWMB63cIqnFInoZIyzsZla0pgA?e=A7v9TZ",
                train="Pascal Context pictures",
            ),
            _checkpoint(
                "vitb_context59",
                "maskclip_plus_vit16_deeplabv2_r101-d8_480x480_4k_pascal_context_59",
                "EQziC4NIOfBEjuPIWdLA5H8BDmmJEIP7KGgRKMVdTjNCGg?e=HuI9WQ",
                train="Pascal Context pictures",
            ),
            _checkpoint(
                "r50_coco_stuff",
                "maskclip_plus_r50_deeplabv2_r101-d8_512x512_8k_coco-stuff164k",
                "EQNexm9L3HRMs-LY9oTn9owBUnQtyXrOa1WzCd0UhVtD6Q?e=SP0KT7",
                train="COCO-Stuff pictures",
            ),
            _checkpoint(
                "r50x16_coco_stuff",
                "maskclip_plus_r50x16_deeplabv2_r101-d8_512x512_8k_coco-stuff164k",
                "EXaSNB5f5JBCqSL8-yYIzbcBdjTFQ1bxHWVMCUlVQd2PZw?e=cfYb6Q",
                train="COCO-Stuff pictures",
            ),
            _checkpoint(
                "vitb_coco_stuff",
                "maskclip_plus_vit16_deeplabv2_r101-d8_512x512_8k_coco-stuff164k",
                "EZSrnPaNFwNNqpECYCkgpg4BEjN782MUD7ZUEPXFWSTEXA?e=mOaseS",
                train="COCO-Stuff pictures",
            ),
            _checkpoint(
                "zeroshot_r50_voc20",
                "maskclip_plus_r50_deeplabv2_r101-d8_512x512_20k_voc12aug_20",
                "EUd1jZwPCrxPugbIqC_fSYIBSOlu8nkVGmKq0vEB45l1Bw?e=oU5mgi",
                train="VOC 2012, labels of the seen classes",
            ),
            _checkpoint(
                "zeroshot_r50_context60",
                "maskclip_plus_r50_deeplabv3plus_r101-d8_480x480_40k_pascal_context",
                "EQXfvmOi75BOoOfVWmXb-EABi5Dmk7rW8q8NWR_OqyRuGg?e=UYDNhG",
                train="Pascal Context, labels of the seen classes",
            ),
            _checkpoint(
                "zeroshot_r50_coco_stuff",
                "maskclip_plus_r50_deeplabv2_r101-d8_512x512_80k_coco-stuff164k",
                "EYMMV4OVUTpPu4yIznwcX2IBPPaTxFi6Dhsm8aDe7XVrzw?e=t0Sxc8",
                train="COCO-Stuff, labels of the seen classes",
            ),
        ),
        figures=(
            PublishedFigures(
                system="MaskCLIP+",
                variant="CLIP ResNet-50",
                train="the benchmark's pictures",
                miou={"VOC20": 58.0, "Context59": 23.9, "COCO-Stuff": 13.8},
                setting="target images",
                source="configs/maskclip_plus/README.md of the official repository",
                note="COCO-Stuff differs slightly from the paper",
            ),
            PublishedFigures(
                system="MaskCLIP+",
                variant="CLIP ResNet-50x16",
                train="the benchmark's pictures",
                miou={"VOC20": 67.5, "Context59": 25.2, "COCO-Stuff": 17.3},
                setting="target images",
                source="configs/maskclip_plus/README.md of the official repository",
            ),
            PublishedFigures(
                system="MaskCLIP+",
                variant="CLIP ViT-B/16",
                train="the benchmark's pictures",
                miou={"Context59": 31.1, "COCO-Stuff": 18.0},
                setting="target images",
                source="configs/maskclip_plus/README.md of the official repository",
            ),
            PublishedFigures(
                system="MaskCLIP+",
                variant="CLIP ResNet-50, zero-shot",
                train="labels of the benchmark's seen classes",
                miou={"VOC20": 87.8, "Context60": 48.4, "COCO-Stuff": 39.7},
                setting="target images",
                source="configs/maskclip_plus/README.md of the official repository",
                note="over all classes; slightly different from the paper",
            ),
        ),
    ),
)

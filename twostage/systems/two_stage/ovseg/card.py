"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.mask_sources.keys import GROUPS as MASKS
from twostage.systems.two_stage.ovseg.keys import GROUPS

CARDS = (
    SystemCard(
        name="OVSeg",
        paradigm="two-stage",
        title="Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2210.04150",
        code="https://github.com/facebookresearch/ov-seg",
        code_licence="CC BY-NC 4.0",
        weights_licence="",
        meta_architecture="OVSeg",
        module="twostage.systems.two_stage.ovseg.model",
        keys=(*MASKS, *GROUPS),
        configs=(
            "ovseg_swinb_vitl",
            "ovseg_r101c_vitb",
            "ovseg_demo",
            "ovseg_superpixels",
            "ovseg_sam",
            "toybox/ovseg",
            "toybox/ovseg_superpixels",
            "toybox/ovseg_adapter",
        ),
        signatures={
            "": Signature(
                (
                    "clip_adapter.",
                    "sem_seg_head.predictor.query_embed.",
                    "backbone.",
                ),
                absent=(
                    "LFM.",
                    "clip_adapter.prompt_learner.",
                ),
            ),
        },
        checked="the 10 public cases match, training included (`base-full` on two threads)",
        checkpoints=(
            OfficialCheckpoint(
                name="ovseg_swinbase_vitL14_ft_mpt.pth",
                source="https://drive.google.com/file/d/1cn-ohxgXDrDfkzC1QdO-fi8IjbjXmgKy/view",
                config="ovseg_swinb_vitl",
                train="COCO-Stuff-171",
                also=("ovseg_demo", "ovseg_superpixels", "ovseg_sam"),
                note="holds the mask-adapted CLIP with its mask prompts",
            ),
            OfficialCheckpoint(
                name="ovseg_R101c_vitB16_ft_mpt.pth",
                source="https://drive.google.com/file/d/1ZmeFMEkhuLqaWkhz4t4IlQ8YflrYja8q/view",
                config="ovseg_r101c_vitb",
                train="COCO-Stuff-171",
                note="holds the mask-adapted CLIP",
            ),
            OfficialCheckpoint(
                name="ovseg_swinbase_vitL14_mpt_only.pt",
                source="https://drive.google.com/file/d/1LJGWFjHw76OGDNy9r9KQIaACfIm9KMhQ/view",
                config="ovseg_swinb_vitl",
                train="COCO-Stuff-171",
                note="mask prompts on CLIP's own weights, an ablation of the paper",
            ),
        ),
        figures=(
            PublishedFigures(
                system="OVSeg",
                variant="R-101c + CLIP ViT-B/16",
                train="COCO-Stuff-171",
                miou={"A-847": 7.1, "PC-459": 11.0, "A-150": 24.8, "PC-59": 53.3, "PAS-20": 92.6},
                rule="pred-or-gt",
                source="getting-started document of OVSeg's official repository",
            ),
            PublishedFigures(
                system="OVSeg",
                variant="Swin-B + CLIP ViT-L/14",
                train="COCO-Stuff-171",
                miou={"A-847": 9.0, "PC-459": 12.4, "A-150": 29.6, "PC-59": 55.7, "PAS-20": 94.5},
                rule="pred-or-gt",
                source="getting-started document of OVSeg's official repository",
            ),
        ),
    ),
    SystemCard(
        name="zsseg",
        paradigm="two-stage",
        title="A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained Vision-language Model",
        venue="ECCV 2022",
        paper="https://arxiv.org/abs/2112.14757",
        code="https://github.com/MendelXu/zsseg.baseline",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="OVSeg",
        module="twostage.systems.two_stage.ovseg.model",
        configs=(
            "zsseg_r101c_vitb",
            "zsseg_r50_vitb",
            "toybox/zsseg",
        ),
        signatures={
            "": Signature(
                (
                    "clip_adapter.prompt_learner.",
                    "sem_seg_head.predictor.query_embed.",
                    "backbone.",
                ),
                absent=("LFM.",),
            ),
        },
        checked="runs OVSeg's code; no case of its own",
        checkpoints=(
            OfficialCheckpoint(
                name="zsseg_cross_dataset",
                source="https://drive.google.com/file/d/1pb6UeXoMPy5xdEBtFcQYLOBKZt0xufKY/view",
                config="zsseg_r101c_vitb",
                train="COCO-Stuff-156",
                note=(
                    "the README's model for other datasets: ResNet-101c, templates of ViLD, 120,000 iterations; its "
                    "file name isn't stated"
                ),
            ),
            OfficialCheckpoint(
                name="zsseg_zero_shot",
                source="https://drive.google.com/file/d/1jDmR4fL5Wm0UyMDd5LhsOl6T2RX2X9R5/view",
                config="zsseg_r101c_vitb",
                train="COCO-Stuff-156",
                note=(
                    "the README's model for unseen classes of COCO-Stuff, with learnt prompts, which are left out "
                    "here; its file name isn't stated"
                ),
            ),
        ),
    ),
)

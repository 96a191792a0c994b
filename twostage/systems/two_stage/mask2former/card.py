"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard

_ZOO = "https://dl.fbaipublicfiles.com/maskformer/mask2former"
_PICKLE = "a pickle, which is not read here: convert it to .safetensors where you trust it"

CARDS = (
    SystemCard(
        name="Mask2Former",
        paradigm="two-stage",
        title="Masked-attention Mask Transformer for Universal Image Segmentation",
        venue="CVPR 2022",
        paper="https://arxiv.org/abs/2112.01527",
        code="https://github.com/facebookresearch/Mask2Former",
        code_licence="MIT",
        weights_licence="CC BY-NC 4.0",
        meta_architecture="Mask2Former",
        module="twostage.systems.two_stage.mask2former.model",
        configs=(
            "mask2former_r50",
            "mask2former_r101",
            "mask2former_swint",
            "mask2former_swinb",
            "mask2former_swinl",
            "mask2former_r50_coco",
            "mask2former_swinb_coco",
            "toybox/mask2former",
            "toybox/mask2former_agnostic",
        ),
        signatures={
            "": Signature(
                (
                    "backbone.",
                    "sem_seg_head.predictor.transformer_cross_attention_layers.",
                ),
                absent=(
                    "backbone.clip_model.",
                    "backbone.feature_extractor.",
                    "clip_adapter.",
                    "word_head.",
                    "category_head.",
                    "void_embedding.",
                ),
            ),
        },
        checked="the 6 public cases match, training included",
        checkpoints=(
            OfficialCheckpoint(
                name="model_final_500878.pkl",
                source=f"{_ZOO}/ade20k/semantic/maskformer2_R50_bs16_160k/model_final_500878.pkl",
                config="mask2former_r50",
                train="ADE20K",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_0d68be.pkl",
                source=f"{_ZOO}/ade20k/semantic/maskformer2_R101_bs16_90k/model_final_0d68be.pkl",
                config="mask2former_r101",
                train="ADE20K",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_5274a6.pkl",
                source=f"{_ZOO}/ade20k/semantic/maskformer2_swin_tiny_bs16_160k/model_final_5274a6.pkl",
                config="mask2former_swint",
                train="ADE20K",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_7e47bf.pkl",
                source=f"{_ZOO}/ade20k/semantic/maskformer2_swin_base_IN21k_384_bs16_160k_res640/model_final_7e47bf.pkl",
                config="mask2former_swinb",
                train="ADE20K",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_6b4a3a.pkl",
                source=f"{_ZOO}/ade20k/semantic/maskformer2_swin_large_IN21k_384_bs16_160k_res640/model_final_6b4a3a.pkl",
                config="mask2former_swinl",
                train="ADE20K",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_94dc52.pkl",
                source=f"{_ZOO}/coco/panoptic/maskformer2_R50_bs16_50ep/model_final_94dc52.pkl",
                config="mask2former_r50_coco",
                train="COCO panoptic",
                note=_PICKLE,
            ),
            OfficialCheckpoint(
                name="model_final_54b88a.pkl",
                source=f"{_ZOO}/coco/panoptic/maskformer2_swin_base_IN21k_384_bs16_50ep/model_final_54b88a.pkl",
                config="mask2former_swinb_coco",
                train="COCO panoptic",
                note=_PICKLE,
            ),
        ),
        figures=(
            PublishedFigures(
                system="Mask2Former",
                variant="ResNet-50",
                train="ADE20K",
                miou={"A-150": 47.2},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="ResNet-101",
                train="ADE20K",
                miou={"A-150": 47.8},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="Swin-T",
                train="ADE20K",
                miou={"A-150": 47.7},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="Swin-B (ImageNet-22k)",
                train="ADE20K",
                miou={"A-150": 53.9},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="Swin-L (ImageNet-22k)",
                train="ADE20K",
                miou={"A-150": 56.1},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="ResNet-50",
                train="COCO panoptic",
                miou={"COCO-Panoptic": 61.7},
                pq={"COCO-Panoptic": 51.9},
                setting="supervised",
                source="model zoo of the official repository",
            ),
            PublishedFigures(
                system="Mask2Former",
                variant="Swin-B (ImageNet-22k)",
                train="COCO panoptic",
                miou={"COCO-Panoptic": 67.1},
                pq={"COCO-Panoptic": 56.4},
                setting="supervised",
                source="model zoo of the official repository",
            ),
        ),
    ),
)

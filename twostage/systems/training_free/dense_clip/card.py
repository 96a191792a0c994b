"""Cards of what this folder hosts."""

from __future__ import annotations

from twostage.checkpoint.signature import Signature
from twostage.systems.card import OfficialCheckpoint, PublishedFigures, SystemCard
from twostage.systems.training_free.dense_clip.keys import GROUPS

_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_MODULE = "twostage.systems.training_free.dense_clip.model"


def _configs(method: str, *benchmarks: str) -> tuple[str, ...]:
    """The method's own config, its toy one, and one per benchmark of the training-free protocol."""
    return (f"{method}_vitb", f"toybox/{method}", *(f"training_free/{method}_{name}" for name in benchmarks))


# Where SCLIP and those after it report.
_EIGHT = ("ade20k", "cityscapes", "coco_object", "coco_stuff", "context59", "context60", "voc20", "voc21")
# Where MaskCLIP does.
_FIVE = ("ade20k", "cityscapes", "coco_stuff", "context59", "voc20")

CARDS = (
    SystemCard(
        name="CLIP",
        paradigm="training-free",
        title="Learning Transferable Visual Models From Natural Language Supervision",
        venue="ICML 2021",
        paper="https://arxiv.org/abs/2103.00020",
        code="https://github.com/openai/CLIP",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        keys=GROUPS,
        configs=_configs("clip", *_EIGHT),
        signatures={
            "": Signature(
                (
                    "visual.",
                    "token_embedding.",
                    "ln_final.",
                )
            ),
        },
        checked="the 2 public cases of attentions match; OpenAI's files load without being executed",
        checkpoints=(
            OfficialCheckpoint(
                name="ViT-B-16.pt",
                source=f"{_OPENAI}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
                config="clip_vitb",
                train="400 million image-text pairs",
                note="for every training-free config with this CLIP; its folder's name is its sha256",
            ),
            OfficialCheckpoint(
                name="RN50.pt",
                source=f"{_OPENAI}/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
                config="maskclip_r50",
                train="400 million image-text pairs",
                note="its folder's name is its sha256",
            ),
            OfficialCheckpoint(
                name="RN50x16.pt",
                source=f"{_OPENAI}/52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
                config="maskclip_r50x16",
                train="400 million image-text pairs",
                note="its folder's name is its sha256",
            ),
            OfficialCheckpoint(
                name="ViT-L-14.pt",
                source=f"{_OPENAI}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
                config="",
                train="400 million image-text pairs",
                note="fits any training-free ViT config with MODEL.CLIP.NAME ViT-L-14; its folder's name is its sha256",
            ),
        ),
        figures=(
            PublishedFigures(
                system="CLIP",
                variant="ViT-B/16",
                train="",
                miou={"VOC20": 41.8, "Context59": 9.2, "COCO-Stuff": 4.4, "Cityscapes": 5.5, "ADE20K": 2.1},
                setting="training-free",
                source="README of ClearCLIP's official repository",
            ),
        ),
    ),
    SystemCard(
        name="MaskCLIP",
        paradigm="training-free",
        title="Extract Free Dense Labels from CLIP",
        venue="ECCV 2022",
        paper="https://arxiv.org/abs/2112.01071",
        code="https://github.com/chongzhou96/MaskCLIP",
        code_licence="Apache-2.0",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=(
            "maskclip_r50",
            "maskclip_r50x16",
            *_configs("maskclip", *_FIVE),
        ),
        signatures={
            "ViT": Signature(
                ("backbone.patch_embed.", "decode_head.text_embeddings", "decode_head.proj."),
                absent=("decode_head.decode_module.",),
                configs=_configs("maskclip", *_FIVE),
            ),
            "ResNet": Signature(
                ("backbone.stem.", "decode_head.text_embeddings", "decode_head.v_proj."),
                absent=("decode_head.decode_module.",),
                configs=("maskclip_r50", "maskclip_r50x16"),
            ),
        },
        checked="the 2 public cases match (ViT and ResNet-50)",
        figures=(
            PublishedFigures(
                system="MaskCLIP",
                variant="ViT-B/16",
                train="",
                miou={"VOC20": 49.5, "Context59": 21.7, "COCO-Stuff": 12.5},
                setting="training-free",
                source="configs/maskclip/README.md of the official repository",
            ),
            PublishedFigures(
                system="MaskCLIP",
                variant="ResNet-50",
                train="",
                miou={"VOC20": 41.5, "Context59": 18.5, "COCO-Stuff": 10.2},
                setting="training-free",
                source="configs/maskclip/README.md of the official repository",
            ),
            PublishedFigures(
                system="MaskCLIP",
                variant="ResNet-50x16",
                train="",
                miou={"VOC20": 50.9, "Context59": 20.3, "COCO-Stuff": 13.6},
                setting="training-free",
                source="configs/maskclip/README.md of the official repository",
            ),
        ),
    ),
    SystemCard(
        name="SCLIP",
        paradigm="training-free",
        title="SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference",
        venue="ECCV 2024",
        paper="https://arxiv.org/abs/2312.01597",
        code="https://github.com/wangf3014/SCLIP",
        code_licence="",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=_configs("sclip", *_EIGHT),
        checked="the 3 public cases match (VOC21, ADE20K, with PAMR), and the 2 of attentions",
        figures=(
            PublishedFigures(
                system="SCLIP",
                variant="ViT-B/16",
                train="",
                miou={
                    "VOC21": 59.63,
                    "Context60": 31.74,
                    "COCO-Object": 33.52,
                    "VOC20": 81.54,
                    "Cityscapes": 32.34,
                    "Context59": 34.46,
                    "ADE20K": 16.45,
                    "COCO-Stuff": 22.77,
                },
                setting="training-free",
                source="README of the official repository",
            ),
        ),
    ),
    SystemCard(
        name="NACLIP",
        paradigm="training-free",
        title="Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation",
        venue="WACV 2025",
        paper="https://arxiv.org/abs/2404.08181",
        code="https://github.com/sinahmr/NACLIP",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=_configs("naclip", *_EIGHT),
        checked="the 3 public cases match (VOC21, ADE20K, Cityscapes), and the 2 of attentions",
        figures=(
            PublishedFigures(
                system="NACLIP",
                variant="ViT-B/16, PAMR",
                train="",
                miou={
                    "VOC21": 64.07,
                    "Context60": 34.99,
                    "COCO-Object": 36.19,
                    "VOC20": 83.03,
                    "Cityscapes": 38.27,
                    "Context59": 38.35,
                    "ADE20K": 19.05,
                    "COCO-Stuff": 25.69,
                },
                setting="training-free",
                source="README of the official repository",
            ),
        ),
    ),
    SystemCard(
        name="ClearCLIP",
        paradigm="training-free",
        title="ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference",
        venue="ECCV 2024",
        paper="https://arxiv.org/abs/2407.12442",
        code="https://github.com/mc-lan/ClearCLIP",
        code_licence="NTU S-Lab License 1.0",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=_configs("clearclip", *_EIGHT),
        checked="no case; its published formula, checked against a written-out one at tiny size",
        figures=(
            PublishedFigures(
                system="ClearCLIP",
                variant="ViT-B/16",
                train="",
                miou={"VOC20": 80.9, "Context59": 35.9, "COCO-Stuff": 23.9, "Cityscapes": 30.0, "ADE20K": 16.7},
                setting="training-free",
                source="README of the official repository",
            ),
        ),
    ),
    SystemCard(
        name="CLIP Surgery",
        paradigm="training-free",
        title="A Closer Look at the Explainability of Contrastive Language-Image Pre-training",
        venue="Pattern Recognition 2025",
        paper="https://arxiv.org/abs/2304.05653",
        code="https://github.com/xmed-lab/CLIP_Surgery",
        code_licence="",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=_configs("clip_surgery"),
        checked="no case; its published formula, checked against a written-out one at tiny size",
    ),
    SystemCard(
        name="GEM",
        paradigm="training-free",
        title="Grounding Everything: Emerging Localization Properties in Vision-Language Transformers",
        venue="CVPR 2024",
        paper="https://arxiv.org/abs/2312.00878",
        code="https://github.com/WalBouss/GEM",
        code_licence="MIT",
        weights_licence="",
        meta_architecture="TrainingFree",
        module=_MODULE,
        configs=_configs("gem"),
        checked="no case; its published formula, checked against a written-out one at tiny size",
        figures=(
            PublishedFigures(
                system="GEM",
                variant="ViT-B/16",
                train="",
                miou={"VOC20": 79.9, "Context59": 35.9, "COCO-Stuff": 23.7, "Cityscapes": 30.8, "ADE20K": 15.7},
                setting="training-free",
                source="README of ClearCLIP's official repository",
                note="run by ClearCLIP's authors",
            ),
        ),
    ),
)

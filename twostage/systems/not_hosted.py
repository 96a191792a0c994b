"""Systems of the field's tables that this package does not host, with the reason: names to be found, nothing to be run."""

from __future__ import annotations

import dataclasses

from twostage.evaluation.figures import PublishedFigures


@dataclasses.dataclass(frozen=True, kw_only=True)
class NotHosted:
    """One of them.

    Attributes:
        name: the name in papers.
        title, venue, paper: of the paper; `paper` is its address.
        code: address of the authors' code, "" where none is known to us.
        code_licence: "" where they state none.
        reason: why it has no folder here.
        figures: what is printed about it where we could read it.
    """

    name: str
    title: str
    venue: str
    paper: str
    code: str
    code_licence: str
    reason: str
    figures: tuple[PublishedFigures, ...] = ()


NOT_HOSTED = (
    NotHosted(
        name="TCL",
        title="Learning to Generate Text-grounded Mask for Open-world Semantic Segmentation from Only Image-Text Pairs",
        venue="CVPR 2023",
        paper="https://arxiv.org/abs/2212.00785",
        code="https://github.com/kakaobrain/tcl",
        code_licence="MIT",
        reason="a decoder of its own on CLIP, trained on 15 million captioned pictures; no specification with us",
        figures=(
            PublishedFigures(
                system="TCL",
                variant="ViT-B/16",
                train="CC3M and CC12M captions",
                miou={
                    "VOC21": 51.2,
                    "Context60": 24.3,
                    "COCO-Object": 30.4,
                    "VOC20": 77.5,
                    "Cityscapes": 23.5,
                    "Context59": 30.3,
                    "ADE20K": 14.9,
                    "COCO-Stuff": 19.6,
                },
                setting="training-free",
                source="SCLIP's table of other methods, read in others' notes on it",
            ),
        ),
    ),
    NotHosted(
        name="ReCo",
        title="ReCo: Retrieve and Co-segment for Zero-shot Transfer",
        venue="NeurIPS 2022",
        paper="https://arxiv.org/abs/2206.07045",
        code="https://github.com/NoelShin/reco",
        code_licence="",
        reason="retrieves from an archive of ImageNet pictures, for each class anew",
        figures=(
            PublishedFigures(
                system="ReCo+",
                variant="DeepLabv3+, ResNet-101",
                train="the benchmark's pictures, labelled by ReCo",
                miou={"Cityscapes": 24.2, "COCO-Stuff": 32.6},
                setting="target images",
                source="README of the official repository",
                note="27 classes each, not the 19 and 171 of other tables",
            ),
        ),
    ),
    NotHosted(
        name="FOSSIL",
        title="FOSSIL: Free Open-Vocabulary Semantic Segmentation through Synthetic References Retrieval",
        venue="WACV 2024",
        paper=(
            "https://openaccess.thecvf.com/content/WACV2024/html/"
            "Barsellotti_FOSSIL_Free_Open-Vocabulary_Semantic_Segmentation_Through_Synthetic_References_Retrieval_WACV_2024_paper.html"
        ),
        code="",
        code_licence="",
        reason="retrieves from an archive of pictures that a diffusion model drew; no repository known to us",
    ),
)

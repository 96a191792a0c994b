"""Published figures of systems that have no card here, so that tables of results show them beside those that have."""

from __future__ import annotations

from twostage.evaluation.figures import PublishedFigures

OTHER_SYSTEMS = (
    PublishedFigures(
        system="OpenSeg",
        variant="R-101",
        train="COCO panoptic",
        miou={"A-847": 4.0, "PC-459": 6.5, "A-150": 15.3, "PC-59": 36.9, "PAS-20": 60.0},
        source="getting-started document of OVSeg's official repository",
    ),
    PublishedFigures(
        system="OpenSeg",
        variant="EfficientNet-B7",
        train="COCO panoptic",
        miou={"A-847": 6.3, "PC-459": 9.0, "A-150": 21.1, "PC-59": 42.1},
        source="getting-started document of OVSeg's official repository",
    ),
    PublishedFigures(
        system="LSeg+",
        variant="EfficientNet-B7",
        train="COCO panoptic",
        miou={"A-847": 3.8, "PC-459": 7.8, "A-150": 18.0, "PC-59": 46.5},
        source="getting-started document of OVSeg's official repository",
    ),
    PublishedFigures(
        system="LSeg+",
        variant="R-101",
        train="COCO panoptic",
        miou={"A-847": 2.5, "PC-459": 5.2, "A-150": 13.0, "PC-59": 36.0, "PAS-20": 59.0},
        source="getting-started document of OVSeg's official repository",
    ),
    PublishedFigures(
        system="ZegFormer",
        variant="R-50",
        train="COCO-Stuff-156",
        miou={"A-150": 16.4, "PAS-20": 80.7},
        source="getting-started document of OVSeg's official repository",
    ),
)

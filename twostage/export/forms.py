"""Which system has which form of file, and why some have none."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.errors import UserError
from twostage.export.dense_forms import CostMap, CostViews, ElectedMap, PlainMap
from twostage.export.form import Form
from twostage.export.mask_forms import Groups, Masks, RegionMasks, SynonymMasks
from twostage.export.name_forms import Names, PooledNames, ProjectedNames, SplicedNames

# Meta-architecture -> its form.
FORMS: dict[str, Form] = {
    "SAN": Masks(),
    "Mask2Former": Masks(),
    "FCCLIP": SynonymMasks(),
    "MAFTPlus": SynonymMasks(),
    "MaskAdapter": SynonymMasks(),
    "CATSeg": CostViews(),
    "PCASeg": CostViews(),
    "SED": CostMap(),
    "ERRSeg": ElectedMap(),
    "OVSeg": RegionMasks(),
    "MaskClipPlus": PlainMap(),
    "SegCLIP": Groups(),
    "GroupViT": Groups(),
    "TrainingFree": Names(),
    "ProxyClip": Names(),
    "Trident": SplicedNames(),
    "ClipDinoiser": PooledNames(),
    "Talk2Dino": ProjectedNames(),
}

# Those that were looked at and have none, and why.
_WITHOUT = {
    "OVSeg": "only the crops of masks that hold pixels go through CLIP, and their number depends on the picture",
    "SCAN": "only the crops of masks that hold pixels go through CLIP, and their number depends on the picture",
    "ERRSeg": "the picture decides which classes go on",
    "CorrClip": "segments of the picture are made beside the network",
}


def form_of(cfg: CfgNode) -> Form:
    """The form of a config's system.

    Raises:
        UserError: there is none.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in FORMS:
        reason = _WITHOUT.get(name, "nobody has traced it")
        raise UserError(f"{name} is not exported: {reason}; there are: {', '.join(sorted(FORMS))}")
    return FORMS[name]

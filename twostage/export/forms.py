"""Which system has which form of file, and why some have none."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.errors import UserError
from twostage.export.dense_forms import CostMap, CostViews, ElectedMap, PlainMap
from twostage.export.form import Form
from twostage.export.mask_forms import Groups, Masks, RegionMasks, SynonymMasks
from twostage.export.name_forms import Names, PooledNames, ProjectedNames, ProxyNames, SplicedNames

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
    "ProxyClip": ProxyNames(),
    "Trident": SplicedNames(),
    "ClipDinoiser": PooledNames(),
    "Talk2Dino": ProjectedNames(),
}

# Those that were traced and have none: what torch's tracer stopped at, and why.
_WITHOUT = {
    "ClipDiy": (
        "maps are put together from crops of several sizes in strips, outside the network, which gives objects that torch's "
        "tracer does not know ('CropSimilarities in output, which is not a known type')"
    ),
    "CorrClip": (
        "segments of the picture are made beside the network, and their numbers decide what is computed (torch's tracer: "
        "'could not guard on data-dependent expression Eq(u0, 1)')"
    ),
    "ODISE": (
        "names need rows of two kinds where a text tower's file gives one, and the diffusion model's factors of noise are "
        "read from tensors (torch's tracer: 'could not guard on data-dependent expression zuf0')"
    ),
    "SCAN": (
        "it looks at the picture in units of its own, and only the crops of masks that hold pixels go through CLIP, whose "
        "number depends on the picture (torch's tracer: 'could not extract specialized integer from data-dependent "
        "expression u0')"
    ),
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

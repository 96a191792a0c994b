"""Runs MAFT+ as a reference case says and compares what the case stores."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from conformance.case import Case
from conformance.comparison import Comparison, compare_equal, compare_labels
from conformance.generator import GENERATOR_KEYS, resizing
from conformance.inputs import as_stored, picture, size_of, striped_batch
from conformance.recording import Arrays, after, hooked, keep, patched
from conformance.rounding import published_rounding
from conformance.seeded import seeded_state
from conformance.segments import compare_segments
from conformance.settings import Table, case_config, clip_name, free, options, pairs
from conformance.systems.fcclip import head_arrays, recording_fcclip
from conformance.trained import compare_trained, embed_classes
from conformance.training import check_training
from conformance.weights import seeded_model
from twostage.data.mapper import to_tensor
from twostage.data.views import dataset_view
from twostage.proposals.position import sine_position_code
from twostage.systems.two_stage.fcclip.model import SynonymText, with_void
from twostage.systems.two_stage.heads import EncodedMasks
from twostage.systems.two_stage.maftp import losses as maftp_losses
from twostage.systems.two_stage.maftp.model import MAFTPlus
from twostage.vocabulary import Vocabulary

SYSTEMS = ("MAFT+", "maftp")
# By the folder and the stem of the published file.
_CONFIGS = {
    "semantic/train_semantic_base": "maftp_convnextb",
    "semantic/train_semantic_large": "maftp_convnextl",
    "semantic/eval": "maftp_convnextl",
    "panoptic/eval": "maftp_convnextl_panoptic",
}
KEYS: Table = {
    **GENERATOR_KEYS,
    # Which CLIP a published config is for is in its name; the classes follow from the vocabulary, the ensemble is not used.
    "MODEL.FC_CLIP.CLIP_MODEL_NAME": free,
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS": free,
    "MODEL.FC_CLIP.EMBED_DIM": free,
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA": free,
    "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA": free,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": free,
}
_FIELDS = {
    "num_queries": "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES",
    "object_mask_threshold": "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD",
    "overlap_threshold": "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD",
}


@published_rounding()
def check(case: Case) -> list[Comparison]:
    """Compare every array and figure of a MAFT+ case with ours."""
    case.told(
        "mode",
        "teacher_weights",
        "threads",
        "two_threads_max_rel_diff",
        "other_process_max_rel_diff",
    )
    cfg = _config(case)
    model = seeded_model(cfg, case)
    if "losses_weighted" in case.meta:
        return _check_training(model.train(), case, cfg)
    return _check_inference(model.eval(), case, cfg)


def _transfer(case: Case, settings: Mapping[str, Any]) -> list[str]:
    """Overrides for a case that says which form the transfer has, itself or by its output; else our config says it."""
    stated = case.meta.get("panoptic_transfer")
    panoptic = settings.get("MODEL.MASK_FORMER.TEST.PANOPTIC_ON") if stated is None else stated
    return [] if panoptic is None else ["MODEL.MAFTP.TRANSFER", "panoptic" if str(panoptic) == "True" else "semantic"]


def _config(case: Case) -> CfgNode:
    meta = case.meta
    fields = {key: meta[field] for field, key in _FIELDS.items() if meta.get(field) is not None}
    settings = pairs(fields, meta.get("config_overrides"))
    return case_config(
        _CONFIGS[meta["config"].removesuffix(".yaml")],
        [
            *("MODEL.CLIP.NAME", clip_name(meta["clip_model"])),
            *_transfer(case, settings),
            *resizing(settings, default=meta["config"].startswith("panoptic")),
            *options(KEYS, settings),
        ],
    )


@torch.no_grad()
def _check_inference(model: MAFTPlus, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    size = size_of(meta["output_size"])
    words = embed_classes(model, case)
    with recording_fcclip(model, arrays), recording_transfer(model.transfer, arrays):
        encoded = model.encode(model.preprocess([{"image": to_tensor(picture(meta["image"]))}]))
        prediction = model.decode(encoded, words)
    (scores,) = prediction.scores([size])
    (labels,) = prediction.label_maps([size])
    arrays |= head_arrays(model, encoded, words, arrays) | transfer_arrays(model, encoded, words)
    arrays |= {
        "category_overlapping_mask": words.seen.long(),
        "mask_cls_final": prediction.class_logits[0],
        "sem_seg": scores,
        "argmax": as_stored(case, "argmax", scores.argmax(dim=0)),
    }
    return [
        *case.compare_all(arrays),
        *compare_trained(case, words.seen),
        compare_equal("names per class", words.classes.bincount().tolist(), meta["num_templates"]),
        compare_labels("label_map", labels, scores.argmax(dim=0)),
        *compare_segments(case, prediction, size, cfg),
        *_compare_training_set(case, cfg),
    ]


def _compare_training_set(case: Case, cfg: CfgNode) -> list[Comparison]:
    """How many classes the config's training set has, against what the case says of its file."""
    stated = case.meta.get("num_classes_of_training")
    ours = len(dataset_view(cfg, cfg.DATASETS.TRAIN[0]).class_names)
    return [] if stated is None else [compare_equal("classes of training", ours, stated)]


def recording_transfer(transfer: nn.Module, arrays: Arrays) -> Any:
    """Within, the transfer's intermediates are kept in `arrays`, names first as in the cases."""
    names_first = {"change": lambda x: x.transpose(0, 1)}
    inner: Any = transfer
    return hooked(
        [
            (inner.linear, lambda args, _out: arrays.update(cdt_attention=args[0].transpose(0, 1))),
            (inner.linear, keep(arrays, "cdt_mlp", **names_first)),
            (transfer, keep(arrays, "cdt_text_out")),
        ]
    )


def transfer_arrays(model: Any, encoded: EncodedMasks, words: SynonymText) -> Arrays:
    """What goes into the transfer."""
    assert encoded.dense is not None
    dense = encoded.dense.embeddings
    grid = (dense.shape[2], dense.shape[3])
    code = sine_position_code(grid, dense.shape[1], dense.device)
    return {
        "cdt_image_features": dense,
        "cdt_position": code.T.unflatten(1, grid)[None],
        "cdt_text_in": with_void(words, model.void_embedding)[0],
        "out_vocab_logits": model.region_logits(encoded, words),
    }


def _check_training(model: MAFTPlus, case: Case, cfg: CfgNode) -> list[Comparison]:
    meta, arrays = case.meta, Arrays()
    _fill_teacher(model, case)
    batch = striped_batch(meta, vocabulary=Vocabulary.published(meta["class_names"]))

    def keep_encoded(encoded: EncodedMasks, *_: Any) -> None:
        assert encoded.dense is not None
        arrays.update(student_dense=encoded.dense.res5, cdt_image_features=encoded.dense.embeddings)

    def keep_overlap(overlap: Tensor, *_: Any) -> None:
        arrays.setdefault("_ious", []).append(overlap)

    def keep_target(target: Tensor, *_: Any) -> None:
        arrays.setdefault("_targets", []).append(target)

    def own_arrays() -> Arrays:
        arrays["ma_iou"] = torch.cat(arrays.pop("_ious"))
        arrays["ma_target"] = torch.cat(arrays.pop("_targets"))
        return arrays

    records = (
        after(MAFTPlus, "encode", keep_encoded),
        after(MAFTPlus, "region_logits", lambda out, *_: arrays.update(out_vocab_logits=out)),
        after(type(model.teacher), "res5", lambda out, *_: arrays.update(teacher_dense=out)),
        after(maftp_losses, "soft_iou", keep_overlap),
        after(maftp_losses, "spread", keep_target),
    )
    case.told("num_templates", "rc_weight", "gradient_zero_but_for_rounding")
    own = {
        "ranking_loss": ("loss_mask_aware", cfg.MODEL.MAFTP.MASK_AWARE_WEIGHT),
        "rc_loss": ("loss_compensation", cfg.MODEL.MAFTP.COMPENSATION_WEIGHT),
    }
    with patched(*records), recording_transfer(model.transfer, arrays):
        return check_training(model, case, cfg, batch, own_losses=own, own_arrays=own_arrays)


def _fill_teacher(model: MAFTPlus, case: Case) -> None:
    """The case's teacher has weights of its own, under its own official names."""
    visual = copy.deepcopy(model.clip.visual).requires_grad_(False).eval()
    prefix = "backbone_t.clip_model.visual."
    official = {f"{prefix}{name}": value for name, value in visual.state_dict().items()}
    seeded = seeded_state(
        official, seed=case.meta["weight_seed"], gains=list(case.meta.get("weight_scales", {}).items())
    )
    visual.load_state_dict({name.removeprefix(prefix): value for name, value in seeded.items()})
    model.teacher.visual = visual

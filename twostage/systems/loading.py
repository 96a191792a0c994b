"""From a config to a model that is ready: built, on its device, with its weights."""

from __future__ import annotations

from detectron2.config import CfgNode

from twostage.checkpoint.checkpointer import load_weights
from twostage.checkpoint.safe_loading import load_checkpoint_file
from twostage.errors import UserError
from twostage.inference.precision import store_reduced
from twostage.machine import settle_machine
from twostage.segmenter import OpenVocabularySegmenter
from twostage.systems.building import build_model
from twostage.weights.find import weights_file


def build_from_config(cfg: CfgNode) -> OpenVocabularySegmenter:
    """The config's model on its device, with `MODEL.WEIGHTS` loaded where given, in eval mode.

    Raises:
        UserError: weights missing or of another system, or a model that is none of ours.
    """
    cfg = cfg.clone()
    settle_machine(cfg)
    # Read before the model is built: a wrong path should not cost the time of building.
    content = load_checkpoint_file(weights_file(cfg.MODEL.WEIGHTS)) if cfg.MODEL.WEIGHTS else None
    model = build_model(cfg)
    if not isinstance(model, OpenVocabularySegmenter):
        raise UserError(f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE!r} is no OpenVocabularySegmenter")
    if content is not None:
        load_weights(model, content, cfg.MODEL.WEIGHTS)
    if model.precision is not None:
        store_reduced(model.trunks, model.precision)
    return model.eval()

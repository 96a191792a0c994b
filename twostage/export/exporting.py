"""From a loaded system to its two ONNX files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from twostage import __version__
from twostage.api import Segmenter
from twostage.checkpoint.fingerprint import weights_sha256
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.export.engine import text_file
from twostage.export.form import TILED, Form
from twostage.export.forms import form_of
from twostage.export.network import Network, write_network
from twostage.export.session import METADATA
from twostage.export.text_tower import TextNetwork, byte_pairs, text_rule, tokenizer_rule
from twostage.files import atomic_path
from twostage.systems.card import SystemCard
from twostage.systems.cards import cards_of
from twostage.vocabulary import Vocabulary

# What networks are traced with: every axis that may differ has a length of its own, above one.
_TRACED_WORDS = ("red star", "blue ring, ring", "grass", "sand", "striped square", "sky", "water")


def export(segmenter: Segmenter, path: Path, *, dynamic: bool, picture: np.ndarray, half: bool = False) -> list[Path]:
    """Write the network to `path` and the text tower beside it; returns both paths.

    Args:
        dynamic: pictures may have any size; else that of `picture` after the config's resize.
        picture: uint8 RGB `[H, W, 3]` to trace with.
        half: whether weights are stored in half precision.

    Raises:
        UserError: the system is not exported, or can't be traced.
    """
    cfg, model = segmenter.cfg, segmenter.model
    form = form_of(cfg)
    form.check(model, cfg)
    if dynamic and (why := form.fixed_by(cfg)):
        choice = ", or set TEST.SLIDING.ENABLED False" if why == TILED else ""
        raise UserError(f"{why}; give --size HEIGHTxWIDTH{choice}")
    # Raised before anything is traced.
    byte_pairs(model.text.tokenizer)
    model.requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        # Not made in inference mode, so that tracing may use them.
        words = form.tensors(form.text(model.text, Vocabulary(_TRACED_WORDS), cfg, form.about(model, cfg)))
        image = traced_image(segmenter, picture, form)
    # Which text tower belongs to which network.
    tower = {"text_tower": weights_sha256(model.text.tower)}
    about = describe(segmenter, form, fixed=None if dynamic else image.shape[-2:]) | tower
    free: list[dict[int, str]] = [{2: "height", 3: "width"} if dynamic else {}]
    free += [{0: "names"} for _ in words]
    with atomic_path(path) as temporary, atomic_path(text_file(path)) as text:
        write_network(
            Network(model, form, padded=form.reads_padding(cfg)).eval(),
            (image, *(word.clone() for word in words)),
            temporary,
            inputs=("image", *form.inputs),
            outputs=form.outputs,
            dynamic=free,
            metadata={METADATA: json.dumps(about)},
            half=half,
        )
        tokens = model.text.tokenize([f"a photo of a {name}" for name in _TRACED_WORDS])
        tokens = F.pad(tokens, (0, int(model.text.tower.context_length) - tokens.shape[1]))
        write_network(
            TextNetwork(model.text).eval(),
            (tokens,),
            text,
            inputs=("tokens",),
            outputs=("features",),
            dynamic=[{0: "prompts"}],
            metadata={METADATA: json.dumps(describe_text(segmenter, words[0].shape[-1]) | tower)},
            half=half,
        )
    return [path, text_file(path)]


def traced_image(segmenter: Segmenter, picture: np.ndarray, form: Form) -> Tensor:
    """What a network takes of a picture, `[1, 3, H, W]`: resized by the config, normalised, padded where it is read."""
    model = segmenter.model
    images = model.preprocess([{"image": segmenter.resized(picture)}])
    return (images.tensor if form.reads_padding(segmenter.cfg) else images[0][None]).clone()


def describe(segmenter: Segmenter, form: Form, *, fixed: Sequence[int] | None) -> dict[str, Any]:
    """The metadata of a network; `docs/export.md` says what each entry means."""
    cfg, model = segmenter.cfg, segmenter.model
    card = card_of(cfg)
    return {
        "twostage": __version__,
        "system": card.name,
        "kind": form.kind,
        "form": form.about(model, cfg),
        "outside": form.outside(model, cfg) + (["OpenCV's resize"] if cfg.INPUT.RESIZE_TEST == "opencv" else []),
        "inputs": ["image", *form.inputs],
        "outputs": list(form.outputs),
        "size_rule": {
            "resize": cfg.INPUT.RESIZE_TEST,
            "short": cfg.INPUT.MIN_SIZE_TEST,
            "long": cfg.INPUT.MAX_SIZE_TEST,
            "size": list(cfg.INPUT.SIZE_TEST),
        },
        "fixed_size": None if fixed is None else [int(side) for side in fixed],
        "size_divisibility": model.size_divisibility,
        "reads_padding": form.reads_padding(cfg),
        "pad_to": max(1, model.size_divisibility) if form.reads_padding(cfg) else 1,
        "pixel_mean": [float(v) for v in cfg.MODEL.PIXEL_MEAN],
        "pixel_std": [float(v) for v in cfg.MODEL.PIXEL_STD],
        "text": text_rule(cfg, form.rows(cfg), form.embedder_options()),
        "names": list(dataset_info(cfg.DATASETS.TEST[0]).prompts) if cfg.DATASETS.TEST else [],
        "card": {key: getattr(card, key) for key in ("name", "paradigm", "title", "venue", "paper", "code")},
        "licence": {
            "twostage": "Apache-2.0",
            "code": card.code_licence or "not stated",
            "weights": card.weights_licence or "not stated",
        },
        "weights": Path(cfg.MODEL.WEIGHTS).name,
        "config": _portable(cfg).dump(),
    }


def describe_text(segmenter: Segmenter, dimension: int) -> dict[str, Any]:
    """The metadata of a text tower whose features have this length."""
    tower, tokenizer = segmenter.model.text.tower, segmenter.model.text.tokenizer
    return {
        "twostage": __version__,
        "inputs": ["tokens"],
        "outputs": ["features"],
        "dimension": dimension,
        "context_length": int(tower.context_length),
        **tokenizer_rule(tokenizer),
    }


def card_of(cfg: CfgNode) -> SystemCard:
    """The card of a config's system; training-free methods share an architecture and differ by name."""
    cards = cards_of(cfg.MODEL.META_ARCHITECTURE)
    method = cfg.MODEL.TRAINING_FREE.METHOD.replace("_", "")
    named = [card for card in cards if card.name.replace(" ", "").casefold() == method]
    return (named or list(cards))[0]


def _portable(cfg: CfgNode) -> CfgNode:
    """The config without what belongs to this machine."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE, cfg.MODEL.CLIP.TEXT_CACHE, cfg.OUTPUT_DIR = "", "cpu", "", ""
    cfg.DATASETS.FOLDERS = ()
    return cfg

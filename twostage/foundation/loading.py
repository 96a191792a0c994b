"""Weights of foundation models: the authors' files, timm's and transformers', told apart by what they hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast, get_args

import timm
import torch
from detectron2.config import CfgNode
from torch import Tensor

from twostage.checkpoint.renaming import Rename, check_complete
from twostage.checkpoint.safe_loading import load_tensors
from twostage.clip.statistics import PixelStatistics
from twostage.errors import UserError
from twostage.foundation.keys import OWN, FoundationName, SamName
from twostage.foundation.sam import SAM_SHAPES, Sam
from twostage.foundation.sam_names import as_ours
from twostage.foundation.vit import SHAPES, FoundationVit
from twostage.weights.find import is_known, weights_file

logger = logging.getLogger(__name__)

# Of ImageNet, on 0..255: what DINO, DINOv2 and SAM were trained with.
IMAGENET_STATISTICS = PixelStatistics((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Tensors that no forward pass reads.
UNREAD = {r"mask_token": "used in pretraining alone", r"head\..*": "the pretraining's projection head"}

TOYBOX_FILE = Path(__file__).with_name("weights") / "toybox-vits8.safetensors"

_SAM_FOLDER = "https://dl.fbaipublicfiles.com/segment_anything"
# The word for a download, by the keys that take it.
_DOWNLOADED = {"MODEL.FOUNDATION": "timm", "MODEL.SAM": "official"}

_TRANSFORMERS = (
    Rename("embeddings.cls_token", "cls_token"),
    Rename("embeddings.mask_token", "mask_token"),
    Rename("embeddings.register_tokens", "register_tokens"),
    Rename("embeddings.position_embeddings", "pos_embed"),
    Rename("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    Rename("encoder.layer.{i}.attention.output.dense.", "blocks.{i}.attn.proj."),
    Rename("encoder.layer.{i}.layernorm_before.", "blocks.{i}.norm1."),
    Rename("encoder.layer.{i}.layernorm_after.", "blocks.{i}.norm2."),
    Rename("encoder.layer.{i}.intermediate.dense.", "blocks.{i}.mlp.fc1."),
    Rename("encoder.layer.{i}.output.dense.", "blocks.{i}.mlp.fc2."),
    Rename("encoder.layer.{i}.layer_scale1.lambda1", "blocks.{i}.ls1.gamma"),
    Rename("encoder.layer.{i}.layer_scale2.lambda1", "blocks.{i}.ls2.gamma"),
    Rename("encoder.layer.{i}.", "blocks.{i}."),
    Rename("layernorm.", "norm."),
)
_SPLIT = re.compile(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)")


def foundation_from_config(cfg: CfgNode) -> FoundationVit | Sam | None:
    """The model of `MODEL.FOUNDATION`, frozen; None where CLIP's own patches take its place.

    Where MODEL.WEIGHTS names a checkpoint, its weights are not read, as CLIP's are not.
    """
    keys = cfg.MODEL.FOUNDATION
    if keys.NAME == OWN:
        return None
    if keys.NAME in get_args(SamName):
        return _sam(cfg, keys.NAME, "official" if keys.PRETRAINED == "timm" else keys.PRETRAINED, "MODEL.FOUNDATION")
    model = FoundationVit(shape=SHAPES[keys.NAME])
    if keys.PRETRAINED and not cfg.MODEL.WEIGHTS:
        model.load_state_dict(read_foundation(keys.NAME, keys.PRETRAINED))
    return model.eval().requires_grad_(False)


def sam_from_config(cfg: CfgNode) -> Sam:
    """The model of `MODEL.SAM`, frozen; its weights are not read where MODEL.WEIGHTS names a checkpoint.

    Raises:
        UserError: transformers is not installed; weights missing, unreadable, or of another model.
    """
    return _sam(cfg, cfg.MODEL.SAM.NAME, cfg.MODEL.SAM.PRETRAINED, "MODEL.SAM")


def _sam(cfg: CfgNode, name: SamName, pretrained: str, keys: str) -> Sam:
    model = Sam(shape=SAM_SHAPES[name])
    if pretrained and not cfg.MODEL.WEIGHTS:
        model.load_state_dict(read_sam(name, pretrained, keys=keys))
    return model.eval().requires_grad_(False)


def foundation_reader_from_config(cfg: CfgNode) -> partial[dict[str, Tensor]]:
    """Reads the weights that `MODEL.FOUNDATION` names."""
    keys = cfg.MODEL.FOUNDATION
    if keys.NAME in get_args(SamName):
        source = "official" if keys.PRETRAINED == "timm" else keys.PRETRAINED
        return partial(read_sam, keys.NAME, source, keys="MODEL.FOUNDATION")
    return partial(read_foundation, keys.NAME, keys.PRETRAINED)


def sam_reader_from_config(cfg: CfgNode) -> partial[dict[str, Tensor]]:
    """Reads the weights that `MODEL.SAM` names."""
    return partial(read_sam, cfg.MODEL.SAM.NAME, cfg.MODEL.SAM.PRETRAINED)


def read_foundation(name: FoundationName, pretrained: str) -> dict[str, Tensor]:
    """Tensors of model `name` under the authors' names, from a file or ("timm") from timm's hub.

    Raises:
        UserError: missing, unreadable, or of another model.
    """
    shape = SHAPES[name]
    place = "timm" if shape.timm else "toybox"
    if pretrained in ("timm", "toybox") and pretrained != place:
        raise UserError(f"MODEL.FOUNDATION.PRETRAINED is {pretrained!r}, where there is no {name}; use {place!r}")
    tensors = _download(name) if pretrained == "timm" else _read(pretrained, "MODEL.FOUNDATION")
    with torch.device("meta"):
        expected = FoundationVit(shape=shape).state_dict()
    ours = _without_unread(as_official(tensors, table=shape.table))
    check_complete(ours, expected, fresh=(), source=pretrained, model=f"MODEL.FOUNDATION.NAME {name}")
    return ours


def read_sam(name: SamName, pretrained: str, *, keys: str = "MODEL.SAM") -> dict[str, Tensor]:
    """Tensors of SAM `name` under our names, from a file in either layout or ("official") the authors' download.

    Args:
        keys: where `pretrained` is set, for messages.

    Raises:
        UserError: missing, unreadable, or of another model; transformers is not installed.
    """
    shape = SAM_SHAPES[name]
    source = f"{_SAM_FOLDER}/{shape.file}" if pretrained == "official" else pretrained
    with torch.device("meta"):
        expected = Sam(shape=shape).state_dict()
    ours = as_ours(_read(source, keys))
    check_complete(ours, expected, fresh=(), source=source, model=f"{keys}.NAME {name}")
    return ours


def as_official(tensors: Mapping[str, Tensor], *, table: int) -> dict[str, Tensor]:
    """Tensors in any of the three layouts under the authors' names.

    timm adds the class entry of DINOv2's position table to the class token and leaves it out of the table; an entry of 0
    there gives the same sum.

    Args:
        table: side of the position table in patches.
    """
    if any(name.startswith("embeddings.") for name in tensors):
        return _from_transformers(tensors)
    result = {("register_tokens" if name == "reg_token" else name): tensor for name, tensor in tensors.items()}
    positions = result.get("pos_embed")
    if positions is not None and positions.ndim == 3 and positions.shape[1] == table**2:
        result["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return result


def _from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("pooler."):
            continue
        if part := _SPLIT.fullmatch(name):
            split.setdefault(f"blocks.{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = tensor
        else:
            result[next((new for rule in _TRANSFORMERS if (new := rule.to_ours(name)) is not None), name)] = tensor
    for name, parts in split.items():
        result[name] = torch.cat([parts[part] for part in ("query", "key", "value") if part in parts])
    return result


def _without_unread(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in tensors.items() if not any(re.fullmatch(pattern, n) for pattern in UNREAD)}


def _read(pretrained: str, keys: str) -> dict[str, Tensor]:
    if pretrained == "toybox":
        return {tensor_name: tensor.float() for tensor_name, tensor in load_tensors(TOYBOX_FILE).items()}
    if not is_known(pretrained):
        raise UserError(
            f"{keys}.PRETRAINED is {pretrained!r}, which is no file; give a checkpoint of {keys}.NAME, "
            f"{_DOWNLOADED[keys]!r} to download it, or '' for random weights"
        )
    return load_tensors(weights_file(pretrained, key=f"{keys}.PRETRAINED"))


def _download(name: FoundationName) -> dict[str, Tensor]:
    hub = SHAPES[name].timm
    try:
        model = timm.create_model(hub, pretrained=True, num_classes=0)
    except Exception as error:
        raise UserError(
            f"{name}'s weights ({hub}) could not be downloaded ({' '.join(str(error).split())[:200]}); set "
            "MODEL.FOUNDATION.PRETRAINED to a local file, or to '' for random weights"
        ) from error
    logger.info("%s's weights come from timm's hub (%s)", name, hub)
    return cast("dict[str, Tensor]", model.state_dict())

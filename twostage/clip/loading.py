"""Any open_clip model by name and pretrained tag or local file, with the activation its weights were trained with."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from detectron2.config import CfgNode

from twostage.checkpoint.renaming import Supply
from twostage.checkpoint.safe_loading import check_same_tensors, load_tensors
from twostage.checkpoint.torchscript import is_torchscript
from twostage.clip.regions.mask_prompt import MASK_PROMPT_NAME, add_mask_prompts
from twostage.errors import UserError, near_names
from twostage.inference.rows import run_mlps_by_rows
from twostage.weights.find import first_published, is_known, weights_file
from twostage.weights.tags import open_clip_addresses

logger = logging.getLogger(__name__)

Tokenizer = Callable[..., torch.Tensor]
# An open_clip model; its attributes are beyond what torch's stubs say of a module.
ClipModel = Any

# Weights by name, or a published file that open_clip reads.
Pretrained = dict[str, torch.Tensor] | Path
# Integers that OpenAI's checkpoints hold besides the weights.
_OPENAI_FIGURES = ("input_resolution", "context_length", "vocab_size")

TOYBOX_PREFIX = "toybox-"
_WEIGHTS_FOLDER = Path(__file__).with_name("weights")


def load_clip(
    name: str, *, pretrained: str = "", quick_gelu: str = "auto", load_weights: bool = True, mask_prompt_depth: int = 0
) -> tuple[ClipModel, Tokenizer]:
    """The CLIP model `name` in eval mode on the CPU, float32, and its tokenizer.

    Args:
        name: open_clip model name ("ViT-B-16") or one of ours ("toybox-vit").
        pretrained: open_clip tag ("openai"), a file or address as `weights_file` takes, "toybox" for the shipped weights, ""
            for random.
        quick_gelu: "auto" takes what the tag was trained with (OpenAI: x * sigmoid(1.702 x)), also for local files in OpenAI's
            layout; for other files and random weights what the model name says. "on" / "off" force it.
        load_weights: False builds the same network without its weights (they come from a checkpoint later). A local file is
            looked into all the same, where `quick_gelu` is "auto": it says which network that is.
        mask_prompt_depth: layers of mask prompts in the image tower, fresh where the weights have none. 0: no prompts, also
            where the weights have some.

    Raises:
        UserError: unknown name or tag, tag and `quick_gelu` contradict, weights missing, unreadable or of another model; the
            tokenizer can't be had.
    """
    model = load_network(
        name,
        pretrained=pretrained,
        quick_gelu=quick_gelu,
        load_weights=load_weights,
        mask_prompt_depth=mask_prompt_depth,
    )
    return model, load_tokenizer(name)


def load_tokenizer(name: str) -> Tokenizer:
    """Of the CLIP model `name`.

    Raises:
        UserError: it has to be downloaded and can't be.
    """
    name = name.replace("/", "-")
    if name.startswith(TOYBOX_PREFIX):
        from twostage.clip.toybox.models import toybox_tokenizer

        return toybox_tokenizer()
    try:
        return open_clip.get_tokenizer(name)
    except (OSError, ImportError, ValueError) as error:
        raise UserError(
            f"the tokenizer of MODEL.CLIP.NAME {name!r} can't be had ({' '.join(str(error).split())[:200]}); it is downloaded "
            "from the hub of transformers once"
        ) from error


def load_network(
    name: str, *, pretrained: str = "", quick_gelu: str = "auto", load_weights: bool = True, mask_prompt_depth: int = 0
) -> ClipModel:
    """The model of `load_clip` without its tokenizer."""
    name = name.replace("/", "-")
    if name.startswith(TOYBOX_PREFIX):
        from twostage.clip.toybox.models import register_toybox_models

        register_toybox_models()
    known = open_clip.list_models()
    if name not in known:
        raise UserError(f"MODEL.CLIP.NAME is {name!r}, which open_clip does not know{near_names(name, known)}")
    untold = quick_gelu == "auto" and pretrained != "toybox" and not open_clip.get_pretrained_cfg(name, pretrained)
    content = _read_pretrained(name, pretrained) if pretrained and (load_weights or untold) else None
    model = _create(name, _force_quick_gelu(name, pretrained, quick_gelu, content))
    run_mlps_by_rows(model.visual)
    prompts = _load_pretrained(model, name, pretrained, content) if load_weights and content is not None else None
    if mask_prompt_depth:
        add_mask_prompts(model.visual, mask_prompt_depth, prompts)
    return model.eval()


def load_clip_from_config(cfg: CfgNode) -> tuple[ClipModel, Tokenizer]:
    """`load_clip` with the keys of `MODEL.CLIP`.

    Where MODEL.WEIGHTS names a checkpoint, CLIP's own weights are not read: checkpoints hold the whole model, and loading
    one accounts for every tensor.
    """
    clip = cfg.MODEL.CLIP
    return load_clip(
        clip.NAME,
        pretrained=clip.PRETRAINED,
        quick_gelu=clip.QUICK_GELU,
        load_weights=not cfg.MODEL.WEIGHTS,
        mask_prompt_depth=clip.MASK_PROMPT_DEPTH,
    )


def read_clip(
    name: str, pretrained: str, quick_gelu: str, source: str, *, lacks: str = "text tower"
) -> dict[str, torch.Tensor]:
    """Tensors of a whole CLIP under `clip.`, for an official checkpoint `source` that holds a part of it, or none.

    Args:
        lacks: what the checkpoint does not hold: "text tower" or "towers".

    Raises:
        UserError: `pretrained` is "", which would leave the rest random; and as `load_clip`.
    """
    if not pretrained:
        holds, which = {
            "text tower": ("CLIP's image tower without its text tower", "the image tower comes from"),
            "towers": ("no CLIP", "the system is made of"),
        }[lacks]
        raise UserError(
            f"checkpoint '{source}' holds {holds}, which MODEL.CLIP.PRETRAINED '' would "
            f"leave random; set it to the weights that {which}: 'openai', or a local file"
        )
    model, _ = load_clip(name, pretrained=pretrained, quick_gelu=quick_gelu)
    logger.info("CLIP's %s, which '%s' does not hold, comes from MODEL.CLIP.PRETRAINED '%s'", lacks, source, pretrained)
    return {f"clip.{key}": value for key, value in model.state_dict().items()}


def clip_reader_from_config(cfg: CfgNode, *, lacks: str = "text tower") -> Supply:
    """`read_clip` with the keys of `MODEL.CLIP`, for a `CheckpointTable`."""
    clip = cfg.MODEL.CLIP
    return partial(read_clip, clip.NAME, clip.PRETRAINED, clip.QUICK_GELU, lacks=lacks)


def _create(name: str, force_quick_gelu: bool | None) -> ClipModel:
    # Passed as a model argument because open_clip's own switch can force QuickGELU on, but not off.
    forced = {} if force_quick_gelu is None else {"quick_gelu": force_quick_gelu}
    root = logging.getLogger()
    root.addFilter(_not_about_random_weights)
    try:
        return open_clip.create_model(name, pretrained=None, pretrained_image=False, pretrained_text=False, **forced)
    finally:
        root.removeFilter(_not_about_random_weights)


def _not_about_random_weights(record: logging.LogRecord) -> bool:
    """open_clip warns that a model is initialised at random; here the weights come right afterwards."""
    return not record.getMessage().startswith("No pretrained weights loaded")


def _force_quick_gelu(name: str, pretrained: str, quick_gelu: str, content: Pretrained | None = None) -> bool | None:
    """What to force, None for the model's own setting; a contradiction with the tag or the file is an error."""
    wanted = {"on": True, "off": False, "auto": None}[quick_gelu]
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    from_openai = isinstance(content, dict) and any(figure in content for figure in _OPENAI_FIGURES)
    if not tag and not from_openai:
        return wanted
    trained_with = bool(tag.get("quick_gelu", False)) if tag else True
    if wanted is not None and wanted != trained_with:
        raise UserError(
            f"MODEL.CLIP.QUICK_GELU is {quick_gelu!r}, but the weights {name!r} / {pretrained!r} were trained with it "
            f"{'on' if trained_with else 'off'}; use 'auto'"
        )
    return trained_with


def _read_pretrained(name: str, pretrained: str) -> Pretrained:
    path, tag_is_known = _pretrained_file(name, pretrained)
    # Published files come in several layouts; open_clip knows them, but would run a TorchScript archive.
    return path if tag_is_known and not is_torchscript(path) else load_tensors(path)


def _load_pretrained(model: ClipModel, name: str, pretrained: str, content: Pretrained) -> torch.Tensor | None:
    """Fill `model`; returns the mask prompts among the weights, None where there are none."""
    if isinstance(content, Path):
        try:
            open_clip.load_checkpoint(model, str(content), strict=True, weights_only=True)
        except (RuntimeError, OSError, KeyError) as error:
            raise UserError(f"CLIP weights '{content}' do not load into {name!r}: {_short(error)}") from error
        return None
    tensors = {k: v for k, v in content.items() if k not in _OPENAI_FIGURES and not k.endswith("attn_mask")}
    prompts = tensors.pop(MASK_PROMPT_NAME, None)
    expected = model.state_dict()
    check_same_tensors(expected, tensors, weights=f"CLIP weights '{pretrained}'", key="MODEL.CLIP.NAME", name=name)
    model.load_state_dict({k: tensors[k] for k in expected})
    return prompts


def _pretrained_file(name: str, pretrained: str) -> tuple[Path, bool]:
    """Path of the weights, and whether `pretrained` is one of open_clip's tags."""
    if pretrained == "toybox" and name.startswith(TOYBOX_PREFIX):
        return _WEIGHTS_FOLDER / f"{name}.safetensors", False
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        try:
            return first_published(open_clip_addresses(tag)), True
        except UserError as error:
            raise UserError(
                f"CLIP weights {name!r} / {pretrained!r}: {error}; or set MODEL.CLIP.PRETRAINED to a local file, or to '' for "
                "random weights"
            ) from error
    if is_known(pretrained):
        return weights_file(pretrained, key="MODEL.CLIP.PRETRAINED"), False
    tags = open_clip.list_pretrained_tags_by_model(name)
    raise UserError(
        f"MODEL.CLIP.PRETRAINED is {pretrained!r}: neither a file nor a tag of {name!r}{near_names(pretrained, tags)}; "
        f"tags: {', '.join(tags) or 'none'}"
    )


def _short(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]

"""Weights of a latent diffusion model: Stable Diffusion v1 in its original layout or diffusers', or a file of our own.

All are recognised by their tensors. Of a file every tensor is used or knowingly dropped: what lies behind the last map that
ODISE reads, moving averages and schedules; the text encoder is run once for the empty prompt and dropped.

Versions 1.1 to 1.5 are one network, further trained: their files have the same names and shapes and can't be told apart.
Versions 2, inpainting and SDXL have other shapes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.checkpoint.safe_loading import load_tensors
from twostage.checkpoint.signature import Signature
from twostage.errors import UserError
from twostage.systems.two_stage.odise.diffusion.latent_diffusion import LatentDiffusion
from twostage.systems.two_stage.odise.diffusion.ldm_names import ldm_renames
from twostage.systems.two_stage.odise.diffusion.networks import BEHIND_LAST_TAP
from twostage.systems.two_stage.odise.diffusion.text_encoder import empty_prompt
from twostage.weights.find import is_known, weights_file

logger = logging.getLogger(__name__)

LICENCE = "CreativeML OpenRAIL-M (https://huggingface.co/spaces/CompVis/stable-diffusion-license)"
EMPTY_PROMPT = "empty_prompt"
_KEY = "MODEL.ODISE.DIFFUSION.PRETRAINED"
# Written by tools/train_toy_diffusion.py.
TOYBOX_FILE = Path(__file__).with_name("weights") / "toybox-diffusion.safetensors"
_TEXT = "text_encoder."
_SCHEDULE = r"(betas|(sqrt_|log_|posterior_)?\w*alphas_cumprod\w*|posterior_\w+|lvlb_weights|logvar|scale_factor)"

LDM = CheckpointTable(
    system="Stable Diffusion v1",
    signatures=(
        Signature(
            ("model.diffusion_model.input_blocks.", "first_stage_model.", "cond_stage_model.transformer."),
            absent=("conditioner.",),
        ),
    ),
    renames=(*ldm_renames(""), Rename("cond_stage_model.transformer.", _TEXT)),
    dropped={
        r"model_ema\..*": "moving averages",
        _SCHEDULE: "the noise schedule, a constant",
        r".*\.position_ids": "indices",
    },
)
# Folders of diffusers' layout, and what older files call the autoencoder's attention.
_FOLDERS = {"unet": "unet.", "vae": "vae.", "text_encoder": _TEXT}
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_stable_diffusion(model: LatentDiffusion, captioner: nn.Module, source: str) -> None:
    """Fill `model` and the captioner's `empty_prompt` from `source`: a file or what `weights_file` finds one by, a folder, or
    "toybox" for the shipped weights.

    Raises:
        UserError: missing, unreadable, of another layout, or of another network.
    """
    tensors = read_diffusion_weights(source)
    prompt = tensors.pop(EMPTY_PROMPT)
    _check_fits(tensors, prompt, model, captioner, source)
    model.load_state_dict(tensors)
    captioner.get_buffer(EMPTY_PROMPT).copy_(prompt)


def read_diffusion_weights(source: str) -> dict[str, Tensor]:
    """Tensors under the names of `LatentDiffusion` ("vae....", "unet....") and `empty_prompt`.

    Raises:
        UserError: see `load_stable_diffusion`.
    """
    if source == "toybox" and not TOYBOX_FILE.is_file():
        raise UserError(
            f"{_KEY} is 'toybox', but the narrow diffusion model '{TOYBOX_FILE}' has not been trained on this machine; make "
            "it by `python tools/train_toy_diffusion.py`"
        )
    if source == "toybox":
        return {name: tensor.float() for name, tensor in load_tensors(TOYBOX_FILE).items()}
    if not is_known(source):
        raise UserError(
            f"{_KEY} is {source!r}, which is neither a file nor a folder; 'sd-v1-3.ckpt' gets "
            "https://huggingface.co/CompVis/stable-diffusion-v-1-3-original, '' stands for random weights"
        )
    path = weights_file(source, key=_KEY)
    tensors = _read_diffusers(path) if path.is_dir() else _read_file(path)
    if EMPTY_PROMPT in tensors:
        return {name: tensor.float() for name, tensor in tensors.items()}
    logger.warning(
        "'%s' is Stable Diffusion v1 under the licence %s; versions 1.1 to 1.5 can't be told apart, ODISE was trained on 1.3",
        source,
        LICENCE,
    )
    return _without_text_encoder(tensors, source)


def _read_file(path: Path) -> dict[str, Tensor]:
    tensors = load_tensors(path)
    if EMPTY_PROMPT in tensors:
        return tensors
    if not LDM.recognises(tensors):
        raise UserError(f"{_KEY} '{path}' {_what_it_is(tensors)}; Stable Diffusion v1.3 is needed, e.g. sd-v1-3.ckpt")
    _check_version(tensors, "model.diffusion_model.input_blocks.0.0.weight", str(path))
    return LDM.to_ours(tensors, source=str(path))


def _what_it_is(tensors: Mapping[str, Tensor]) -> str:
    """Another version of Stable Diffusion, or something else."""
    if any(name.startswith("conditioner.") for name in tensors):
        return "is Stable Diffusion XL"
    if any(name.startswith("cond_stage_model.model.") for name in tensors):
        return "is Stable Diffusion v2"
    first = next(iter(tensors))
    return f"is no Stable Diffusion checkpoint (its first tensor is {first!r})"


def _read_diffusers(folder: Path) -> dict[str, Tensor]:
    """A folder with unet/, vae/ and text_encoder/, each with one weights file."""
    tensors = {}
    for name, prefix in _FOLDERS.items():
        files = sorted((folder / name).glob("*.safetensors")) or sorted((folder / name).glob("*.bin"))
        files = [f for f in files if not re.search(r"\.(fp16|non_ema)\.", f.name)] or files
        if not files:
            raise UserError(
                f"{_KEY} '{folder}': '{name}/' holds no .safetensors or .bin file; a folder in diffusers' layout has "
                f"{', '.join(f'{n}/' for n in _FOLDERS)}"
            )
        tensors.update({prefix + _current(k): v for file in files for k, v in load_tensors(file).items()})
    _check_version(tensors, "unet.conv_in.weight", str(folder))
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}


def _current(name: str) -> str:
    """The name that today's libraries have for a tensor of diffusers' layout."""
    for old, new in _OLD_NAMES.items():
        name = re.sub(rf"(mid_block\.attentions\.0)\.{old}\.", rf"\1.{new}.", name)
    return name


def _check_version(tensors: Mapping[str, Tensor], first: str, source: str) -> None:
    """UserError for other versions, which are told by shapes."""
    channels = tensors[first].shape[1] if first in tensors else 4
    widths = {t.shape[1] for name, t in tensors.items() if name.endswith("attn2.to_k.weight")}
    found = None
    if channels == 9:
        found = "the inpainting model"
    elif widths == {1024}:
        found = "Stable Diffusion v2 (its UNet reads text embeddings of 1024 channels)"
    elif widths == {2048}:
        found = "Stable Diffusion XL (its UNet reads text embeddings of 2048 channels)"
    if found:
        raise UserError(f"{_KEY} '{source}' is {found}; ODISE runs on v1.3, e.g. sd-v1-3.ckpt")


def _without_text_encoder(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The same with the text encoder's tensors replaced by what it makes of "", without what lies behind the last tap."""
    text = {name.removeprefix(_TEXT): t for name, t in tensors.items() if name.startswith(_TEXT)}
    try:
        prompt = empty_prompt(text)
    except (KeyError, ValueError) as error:
        raise UserError(f"{_KEY} '{source}' has no text encoder of Stable Diffusion v1 ({error} is missing)") from error
    kept = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if not name.startswith(_TEXT) and not any(re.fullmatch(pattern, name) for pattern in BEHIND_LAST_TAP)
    }
    return {**kept, EMPTY_PROMPT: prompt}


def _check_fits(
    tensors: Mapping[str, Tensor], prompt: Tensor, model: LatentDiffusion, captioner: nn.Module, source: str
) -> None:
    expected = model.state_dict()
    wrong = [k for k, v in expected.items() if k not in tensors or tensors[k].shape != v.shape]
    extra = [k for k in tensors if k not in expected]
    if wrong or extra:
        raise UserError(
            f"{_KEY} '{source}' does not fit MODEL.ODISE.DIFFUSION: {len(wrong)} tensors missing or of another shape, "
            f"{len(extra)} unknown (first: {(wrong + extra)[0]!r}); Stable Diffusion v1 has the default channels"
        )
    wanted = captioner.get_buffer(EMPTY_PROMPT).shape
    if prompt.shape != wanted:
        raise UserError(
            f"{_KEY} '{source}' has prompts of {tuple(prompt.shape[1:])} tokens and channels, MODEL.ODISE.DIFFUSION."
            f"PROMPT_TOKENS and PROMPT_WIDTH say {tuple(wanted[1:])}"
        )
    if not torch.isfinite(prompt).all():
        raise UserError(f"{_KEY} '{source}': its text encoder gives no finite numbers; get the file again")

"""Names in official Mask-Adapter checkpoints and ours, and the checkpoints that its training starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable, Rename, check_complete
from twostage.checkpoint.safe_loading import load_checkpoint_file, model_tensors
from twostage.systems.two_stage.fcclip.weights import RENAMES as FCCLIP
from twostage.systems.two_stage.fcclip.weights import checkpoint_table as fcclip_table
from twostage.systems.two_stage.maftp.transfer import Form
from twostage.systems.two_stage.maftp.weights import DROPPED, TRANSFER_RENAMES
from twostage.systems.two_stage.maftp.weights import checkpoint_table as maftp_table
from twostage.systems.two_stage.mask_adapter.card import CARDS
from twostage.weights.find import weights_file

ADAPTER = "adapter."
WARMUP_VOID = "warmup_void."
_HEAD = "mask_adapter."
_HEAD_RENAMES = (
    Rename(f"{_HEAD}mask_downscaling.6.", f"{ADAPTER}mask_proj."),
    Rename(f"{_HEAD}mask_downscaling.", f"{ADAPTER}mask_encoder."),
    *(
        Rename(f"{_HEAD}cnext{{i}}.{theirs}", f"{ADAPTER}blocks.{{i}}.{ours}", first=-1)
        for theirs, ours in (("dwconv.", "conv_dw."), ("pwconv1.", "mlp.fc1."), ("pwconv2.", "mlp.fc2."), ("", ""))
    ),
    Rename(_HEAD, ADAPTER),
)
_NOT_WARMED_UP = (
    "the decoder and its void embedding, which the warm-up does without: MODEL.MASK_ADAPTER.BASE_WEIGHTS has them"
)
_BASE_ONLY = dict.fromkeys(
    (r"(pixel_)?decoder\..*", r"pooled_proj\..*", r"class_embed\..*", r"logit_scale", r"void_embedding\..*"),
    _NOT_WARMED_UP,
)


def checkpoint_table(base: str, phase: str) -> CheckpointTable:
    """The table of an adapter on `base` ("fcclip" or "maftp") of this phase ("warmup" or "mixed")."""
    on = {"fcclip": "FC-CLIP", "maftp": "MAFT+"}[base]
    warmup = phase == "warmup"
    under = (Rename("backbone.clip_model.", "clip."), Rename("void_embedding.", WARMUP_VOID)) if warmup else FCCLIP
    return CheckpointTable(
        system=f"Mask-Adapter on {on}",
        signatures=(CARDS[0].signatures[f"warm-up on {on}" if warmup else on],),
        renames=(*under, *(TRANSFER_RENAMES if base == "maftp" else ()), *_HEAD_RENAMES),
        dropped=DROPPED,
        fresh=_BASE_ONLY if warmup else {},
    )


def load_base(model: nn.Module, transfer: Form | None, source: str) -> None:
    """Fill all of `model` but the adapter from a checkpoint of the system under it, ours or official.

    Args:
        transfer: MAFT+'s form; None on FC-CLIP.

    Raises:
        UserError: it does not fit.
    """
    table = fcclip_table() if transfer is None else maftp_table(transfer)
    _fill(model, _tensors(source, table), source, own=lambda name: not name.startswith((ADAPTER, WARMUP_VOID)))


def load_adapter(model: nn.Module, base: str, source: str) -> None:
    """Fill the adapter of `model` from a checkpoint of the warm-up, ours or official.

    Raises:
        UserError: it does not fit.
    """
    tensors = _tensors(source, checkpoint_table(base, "warmup"))
    adapter = {name: tensor for name, tensor in tensors.items() if name.startswith(ADAPTER)}
    _fill(model, adapter, source, own=lambda name: name.startswith(ADAPTER))


def read_adapter(source: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors in a checkpoint of Mask-Adapter on FC-CLIP of either phase, ours or official, without a prefix.

    Args:
        expected: the adapter's state dict.

    Raises:
        UserError: they do not fit.
    """
    tensors = model_tensors(load_checkpoint_file(weights_file(source)), source)
    for table in (checkpoint_table("fcclip", "mixed"), checkpoint_table("fcclip", "warmup")):
        if table.recognises(tensors):
            tensors = table.to_ours(tensors, source=source)
            break
    found = {name.removeprefix(ADAPTER): tensor for name, tensor in tensors.items() if name.startswith(ADAPTER)}
    check_complete(found, expected, fresh=(), source=source, model="adapter (MODEL.MASK_ADAPTER)")
    return found


def _tensors(source: str, table: CheckpointTable) -> Mapping[str, Tensor]:
    tensors = model_tensors(load_checkpoint_file(weights_file(source)), source)
    return table.to_ours(tensors, source=source) if table.recognises(tensors) else tensors


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str, *, own: Callable[[str], bool]) -> None:
    expected = {name: tensor for name, tensor in model.state_dict().items() if own(name)}
    check_complete(tensors, expected, fresh=(), source=source, model=type(model).__name__)
    model.load_state_dict(tensors, strict=False)

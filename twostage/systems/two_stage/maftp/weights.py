"""Names of official MAFT+ checkpoints and ours: FC-CLIP's, and the transfer."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable, Rename
from twostage.errors import UserError
from twostage.systems.two_stage.fcclip.weights import RENAMES
from twostage.systems.two_stage.maftp.card import CARDS
from twostage.systems.two_stage.maftp.transfer import Form

_CDT = "cdt.cross_atten."
TRANSFER_RENAMES = (
    Rename(f"{_CDT}multihead_attn.", "transfer.attention."),
    Rename(f"{_CDT}norm.", "transfer.norm."),
    Rename(f"{_CDT}MLP.", "transfer.linear."),
)
DROPPED = {
    r"criterion\.empty_weight": "made from the number of training classes",
    r"backbone_t\..*": "the teacher, which is CLIP as published: MODEL.CLIP.PRETRAINED names it",
}
# Classes of the published training sets (COCO-Stuff, COCO panoptic) and void -> the transfer that was trained on them.
_FORMS: Mapping[int, Form] = {172: "semantic", 134: "panoptic"}


def checkpoint_table(form: Form) -> CheckpointTable:
    """The table of a model with this transfer."""

    def check(tensors: Mapping[str, Tensor], source: str) -> None:
        weight = tensors.get("criterion.empty_weight")
        trained = None if weight is None else _FORMS.get(weight.numel())
        if trained not in (None, form):
            raise UserError(
                f"checkpoint '{source}' was trained with the {trained} transfer (by its number of classes), but "
                f"MODEL.MAFTP.TRANSFER is '{form}'; set it to '{trained}'"
            )

    return CheckpointTable(
        system="MAFT+",
        signatures=tuple(CARDS[0].signatures.values()),
        renames=(*RENAMES, *TRANSFER_RENAMES),
        dropped=DROPPED,
        check=check,
    )

"""The text tower as an ONNX file of its own: token ids in, CLIP's text features out; its tokenizer stands in the metadata.

Legend: N prompts, L the context length, D embedding size. Behind a prompt's end come zeros, which a causal tower never sees.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from twostage.clip.loading import Tokenizer
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.errors import UserError
from twostage.export.session import Session

# The pieces of lower-case text that CLIP's tokenizer splits apart, as a regular expression that needs no Unicode categories:
# endings, letters, single digits, the rest.
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+"


class TextNetwork(nn.Module):
    """`forward(tokens)`: features `[N, D]`, not of unit length, of token ids int64 `[N, L]`."""

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__()
        self.embedder = embedder
        # Registered, so that its weights are the network's.
        self.tower = embedder.tower

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return self.embedder.encode_tokens(tokens)


def byte_pairs(tokenizer: Tokenizer) -> SimpleTokenizer:
    """The tokenizer, if it is CLIP's. Raises UserError for one of another kind."""
    if not isinstance(tokenizer, SimpleTokenizer):
        raise UserError(
            f"the text tower reads a {type(tokenizer).__name__}'s tokens, and only CLIP's byte-pair tokenizer is exported; "
            "export a system whose MODEL.CLIP.NAME is a CLIP of OpenAI's or OpenCLIP's"
        )
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """A CLIP tokenizer's byte-pair merges in their order, each "first second". Raises UserError as `byte_pairs`."""
    own = byte_pairs(tokenizer)
    ranked = sorted(own.bpe_ranks, key=own.bpe_ranks.get)
    return [" ".join(pair) for pair in ranked]


def tokenizer_rule(tokenizer: Tokenizer) -> dict[str, Any]:
    """How text becomes token ids, as other programs need it (`docs/export.md`). Raises UserError as `byte_pairs`."""
    own = byte_pairs(tokenizer)
    return {
        "word": _WORD,
        "letters": [own.byte_encoder[byte] for byte in range(256)],
        "pieces": list(own.encoder),
        "merges": merges_of(own),
    }


def tokenizer_of(merges: list[str]) -> SimpleTokenizer:
    """The tokenizer with these merges."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merges.txt.gz"
        # The first line of such a file is a title.
        path.write_bytes(gzip.compress("\n".join(["merges", *merges]).encode()))
        return SimpleTokenizer(bpe_path=str(path))


def text_rule(cfg: CfgNode, rows: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """How names become rows of the text input, as other programs need it (`docs/export.md`); `options` are a form's."""
    keys = cfg.MODEL.CLIP
    return {
        "rows": rows,
        "templates": list(TEMPLATES[keys.TEMPLATES]),
        "split_synonyms": bool(options.get("split_synonyms", keys.SPLIT_SYNONYMS)) or rows == "name",
        "first_synonym": bool(keys.FIRST_SYNONYM),
        # Rows per template are unit vectors in any case.
        "unit_prompts": (bool(keys.UNIT_PROMPTS) or rows == "templates") and not options.get("plain"),
        # Features as the tower gives them, not unit vectors.
        "plain": bool(options.get("plain")),
    }


class OnnxTextEmbedder(TextEmbedder):
    """A `TextEmbedder` whose tower is an ONNX file."""

    def __init__(self, session: Session, tokenizer: Tokenizer, **options: Any) -> None:
        """
        Args:
            options: those of `TextEmbedder` but for `clip`.
        """
        context = session.about["context_length"]
        super().__init__(clip=SimpleNamespace(context_length=context), tokenizer=tokenizer, **options)
        self._session = session

    @classmethod
    def of_file(cls, path: Path, cfg: CfgNode, options: Mapping[str, Any]) -> OnnxTextEmbedder:
        """Of a file that `twostage export` wrote, for a config's way with words."""
        session = Session(path)
        session.require(("merges", "context_length"))
        keys = cfg.MODEL.CLIP
        by_keys = {
            "templates": TEMPLATES[keys.TEMPLATES],
            "unit_prompts": keys.UNIT_PROMPTS,
            "split_synonyms": keys.SPLIT_SYNONYMS,
            "first_synonym": keys.FIRST_SYNONYM,
            "batch_size": keys.TEXT_BATCH_SIZE,
        }
        return cls(session, tokenizer_of(session.about["merges"]), **(by_keys | dict(options)))

    @property
    def tower_hash(self) -> str:
        """Which text tower it is, "" for files of before it was written down."""
        return self._session.about.get("text_tower", "")

    @property
    def _reads_end_of_text(self) -> bool:
        return True

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _text_parameters(self) -> dict[str, Tensor]:
        return {}

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Features `[N, D]` of token ids, at most L of each prompt."""
        missing = self._session.about["context_length"] - tokens.shape[1]
        (features,) = self._session({"tokens": F.pad(tokens, (0, missing))})
        return features

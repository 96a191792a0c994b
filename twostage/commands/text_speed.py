"""What `tools/text_speed.py` does."""

from __future__ import annotations

import argparse

import torch

from twostage.benchmark.cost import added_memory, measured
from twostage.clip.loading import load_clip
from twostage.clip.templates import TEMPLATES
from twostage.clip.text import TextEmbedder
from twostage.data.views import find_info
from twostage.errors import UserError
from twostage.vocabulary import Vocabulary


def run_from_arguments(args: argparse.Namespace) -> None:
    """Embed and print seconds, what all templates take, and the largest difference.

    Raises:
        UserError: unknown CLIP or dataset.
    """
    info = find_info(args.dataset)
    if info is None:
        raise UserError(f"there is no dataset {args.dataset!r}; `twostage datasets` lists them")
    vocabulary = Vocabulary.of(info)
    torch.manual_seed(0)
    clip, tokenizer = load_clip(args.clip)
    clip.requires_grad_(False)
    templates = TEMPLATES["imagenet"][:: args.every]

    def embedder() -> TextEmbedder:
        return TextEmbedder(clip=clip, tokenizer=tokenizer, templates=templates, split_synonyms=True)

    text = embedder()
    names = list(dict.fromkeys(name for group in text.names(vocabulary) for name in group))
    few = names[: args.plain]
    text.embed_names(few)  # nothing is done for the first time when it is timed
    rows: list[torch.Tensor] = []
    shared = measured(lambda: rows.append(embedder().embed_names(names)))
    memory = added_memory(lambda: embedder().embed_names(few))
    plain: list[torch.Tensor] = []
    whole = measured(lambda: plain.append(_plain(clip, text, few)))
    prompts = len(names) * len(templates)
    # Where templates were left out.
    full = len(names) * len(TEMPLATES["imagenet"])
    for what, seconds, count in (
        ("shared beginnings", shared.processor, prompts),
        ("plain", whole.processor, len(few) * len(templates)),
    ):
        print(
            f"{what}: {count} prompts, {1000 * seconds / count:.2f} ms each; {full} take {full * seconds / count:.0f} s"
        )
    print(
        f"largest difference: {(rows[0][: len(few)] - plain[0]).abs().max():.1e}; added memory {memory / 2**20:.0f} MiB"
    )


@torch.inference_mode()
def _plain(clip: torch.nn.Module, text: TextEmbedder, names: list[str]) -> torch.Tensor:
    """Embeddings through open_clip's own transformer, whole prompts in batches that are padded to the longest."""
    rows = []
    for start in range(0, len(names), 16):
        some = names[start : start + 16]
        tokens = text.tokenize([prompt for name in some for prompt in text.prompts(name)])
        features = text.read_whole(tokens).unflatten(0, (len(some), -1))
        features = torch.nn.functional.normalize(features, dim=-1).mean(dim=1)
        rows.append(torch.nn.functional.normalize(features, dim=-1))
    return torch.cat(rows)

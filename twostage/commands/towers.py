"""What `tools/towers.py` does: text-aligned towers of open_clip as dense ones, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch
from tabulate import tabulate

from twostage.benchmark.cost import measured, peak_bytes
from twostage.clip.dense.tower import DenseTower, tower_kind
from twostage.clip.keys import DenseMethod
from twostage.clip.loading import load_network, load_tokenizer
from twostage.clip.statistics import CLIP_STATISTICS, PixelUnits
from twostage.clip.text import TextEmbedder
from twostage.clip.towers.any_timm import is_timm
from twostage.clip.towers.siglip import is_siglip
from twostage.errors import UserError

_NAMES = ("cat", "striped blue star", "sky")
_HEADERS = (
    "tower",
    "million parameters",
    "picture",
    "grid",
    "embedding",
    "image s",
    "names s",
    "peak GiB",
    "names read",
)


def run_from_arguments(args: argparse.Namespace) -> None:
    """Print a row per tower, or, for one alone, what its process found as JSON."""
    if args.alone:
        print(json.dumps(probe(args.towers[0])))
        return
    rows = []
    for name in args.towers:
        done = subprocess.run([sys.executable, sys.argv[0], "--alone", name], capture_output=True, text=True)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2]
            rows.append([name, *[""] * (len(_HEADERS) - 2), f"does not run: {reason}"])
        else:
            rows.append(list(json.loads(done.stdout.strip().rpartition("\n")[2]).values()))
        print(f"{name}: {rows[-1][-1]}", file=sys.stderr, flush=True)
    print(tabulate(rows, headers=_HEADERS, tablefmt="github", floatfmt=".1f"))


@torch.no_grad()
def probe(name: str) -> dict[str, Any]:
    """One picture densely and three names through the tower `name` with random weights.

    Raises:
        UserError: there is no such tower, or it has no dense features.
        AssertionError: it gives something else than finite embeddings of one size.
    """
    torch.manual_seed(0)
    clip = load_network(name)
    visual = clip.visual
    # Towers that are no plain ViT run as they are; of the others the last block attends by values alone (MaskCLIP).
    method: DenseMethod = "vanilla" if is_timm(visual) and not is_siglip(visual) else "maskclip"
    tower = DenseTower(visual=visual, method=method)
    size = visual.image_size if isinstance(visual.image_size, (tuple, list)) else (visual.image_size,) * 2
    picture = PixelUnits(CLIP_STATISTICS)(torch.randint(256, (1, 3, *size)).float())
    found: list[torch.Tensor] = []
    image = measured(lambda: found.append(tower(picture).patches))
    words, how = _embed(clip, name, found)
    patches, names = found
    assert patches.shape[1] == names.shape[1] and patches.isfinite().all() and names.isfinite().all()
    return {
        "tower": name,
        "parameters": sum(parameter.numel() for parameter in clip.parameters()) / 1e6,
        "picture": f"{size[0]}x{size[1]}",
        "grid": f"{patches.shape[2]}x{patches.shape[3]} ({tower_kind(visual, method)})",
        "embedding": patches.shape[1],
        "image s": image.processor,
        "names s": words.processor,
        "peak": peak_bytes() / 2**30,
        "names": how,
    }


def _embed(clip: Any, name: str, found: list[torch.Tensor]) -> tuple[Any, str]:
    """Embed the names by the tower's own tokenizer or, where that can't be had, as many random tokens."""
    try:
        tokenizer = load_tokenizer(name)
    except UserError:
        text = getattr(clip, "text", clip)
        tokens = torch.randint(1, int(text.vocab_size), (len(_NAMES), int(text.context_length)))
        return measured(lambda: found.append(clip.encode_text(tokens))), "random tokens: the tokenizer is a download"
    embedder = TextEmbedder(clip=clip, tokenizer=tokenizer, templates=("a photo of a {}.",), split_synonyms=False)
    return measured(lambda: found.append(embedder.embed_names(list(_NAMES)))), "yes"

"""The text cache: whatever lies in its folder, the embeddings are those of the text tower."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustness.damage import damage
from robustness.doors.pictures import segmenter
from robustness.trial import Door, Trial, require
from twostage.clip.loading import load_clip_from_config
from twostage.clip.text import TextEmbedder
from twostage.vocabulary import Vocabulary

_WORDS = Vocabulary.from_words(["cat", "sofa, couch", "grass"])
# Of one file: what is done to it.
Damage = Callable[[Path], None]


@functools.cache
def _clip() -> tuple:
    cfg = segmenter().cfg
    clip, tokenizer = load_clip_from_config(cfg)
    # A tower in training is not cached.
    return cfg, clip.requires_grad_(False), tokenizer


def _embed(folder: Path | None) -> Tensor:
    cfg, clip, tokenizer = _clip()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CLIP.TEXT_CACHE = "" if folder is None else str(folder)
    with torch.no_grad():
        return TextEmbedder.from_config(cfg, clip, tokenizer)(_WORDS)


def _action(spoil: Damage) -> Callable[[Path], None]:
    def action(folder: Path) -> None:
        expected = _embed(None)
        cache = folder / "cache"
        require(torch.equal(_embed(cache), expected), "the cache changes the embeddings")
        files = sorted(cache.rglob("*.safetensors"))
        require(len(files) > 0, "nothing is cached")
        spoil(files[0])
        require(torch.equal(_embed(cache), expected), "a damaged cache changes the embeddings")
        require(torch.equal(_embed(cache), expected), "the mended cache changes the embeddings")

    return action


def _write(content: Callable[[bytes], bytes]) -> Damage:
    return lambda path: _put(path, content(path.read_bytes()))


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _replace_tensor(change: Callable[[Tensor], Tensor], key: str = "embedding") -> Damage:
    def spoil(path: Path) -> None:
        save_file({key: change(load_file(path)["embedding"]).contiguous()}, path, metadata={"name": "cat"})

    return spoil


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _file_as_folder(path: Path) -> None:
    folder = path.parent
    for other in folder.iterdir():
        other.unlink()
    folder.rmdir()
    folder.write_bytes(b"x")


def _swap(path: Path) -> None:
    """The file of another name."""
    others = sorted(other for other in path.parent.glob("*.safetensors") if other != path)
    path.write_bytes(others[0].read_bytes())


_FIXED: dict[str, Damage] = {
    "empty": _write(lambda _: b""),
    "longer": _write(lambda content: content + b"x"),
    "a folder": _make_folder,
    "dangling link": _dangle,
    "link to itself": _loop,
    "cache folder is a file": _file_as_folder,
    "another name's": _swap,
    "another size": _replace_tensor(lambda t: t[:-1]),
    "two dimensions": _replace_tensor(lambda t: t[None]),
    "half precision": _replace_tensor(lambda t: t.half()),
    "integers": _replace_tensor(lambda t: t.to(torch.int64)),
    "NaN": _replace_tensor(lambda t: t * float("nan")),
    "zeros": _replace_tensor(torch.zeros_like),
    "another key": _replace_tensor(lambda t: t, key="x"),
}


def trials(rng: np.random.Generator, count: int) -> Iterator[Trial]:
    """The ones thought of, then damaged bytes."""
    _clip()
    for name in list(_FIXED)[:count]:
        yield Trial(name, _action(_FIXED[name]))
    for index in range(max(0, count - len(_FIXED))):
        seed = int(rng.integers(2**32))
        yield Trial(f"damaged bytes #{index}", _action(_write(_damaging(seed))))


def _damaging(seed: int) -> Callable[[bytes], bytes]:
    return lambda content: damage(np.random.default_rng(seed), content)[1]


DOOR = Door("text caches", trials)

"""Text embeddings of a vocabulary: prompts -> CLIP's text tower -> unit vectors per class, each computed once.

Embeddings are kept in memory and on disk (`text_cache`) under a key made of the text tower's weights, the prompts and the
activation, so a stale one can't be read. A text tower that is being trained gives embeddings with gradients, computed
anew in every step; its weights change too often to be worth the disk.

Legend: C classes, P templates, D embedding size.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from twostage.clip.loading import ClipModel, Tokenizer
from twostage.clip.prefixes import ends_of_text
from twostage.clip.templates import TEMPLATES
from twostage.clip.text_cache import TextCache
from twostage.errors import UserError
from twostage.machine import user_path
from twostage.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

# A progress bar is worth showing from this many prompts on.
_LONG_WORK = 2048
# Vocabularies whose matrix is kept. With one row per template and name a matrix of a few hundred names has tens of
# megabytes, and who asks word by word has a vocabulary per word; from the names' own embeddings it is made in no time.
_KEPT_MATRICES = 4
# Bytes of single embeddings that are kept besides those of the last call: a server is asked new words day by day.
_KEPT_BYTES = 64 * 2**20
# From this many names on it pays that those of one template go through the tower together.
_SHARING_NAMES = 16


# Guards the caches of all embedders: several threads may ask one system for different words.
_LOCK = threading.RLock()


def _writable_cache(folder: str) -> Path | None:
    """The folder of the cache, None where there can be none (a user without a home)."""
    try:
        return user_path(folder)
    except UserError as error:
        logger.warning("text embeddings are not kept on disk: %s (MODEL.CLIP.TEXT_CACHE)", error)
        return None


class TextEmbedder:
    """Embeds vocabularies with a CLIP model's text tower. Not a module: it borrows the tower and owns only caches."""

    def __init__(
        self,
        *,
        clip: ClipModel,
        tokenizer: Tokenizer,
        templates: Sequence[str],
        split_synonyms: bool,
        first_synonym: bool = False,
        per_template: bool = False,
        unit_prompts: bool = True,
        plain: bool = False,
        batch_size: int = 256,
        cache_folder: str = "",
    ) -> None:
        """
        Args:
            clip: an open_clip model.
            templates: prompts with one `{}`; an embedding is the mean over them, made unit.
            unit_prompts: the mean is that of unit vectors; of the plain features with False.
            split_synonyms: "sofa, couch" is two names whose embeddings are averaged, instead of one.
            first_synonym: of split names, only the first is embedded.
            plain: names have CLIP's text features as they are, not unit vectors (one template; for heads that project
                them).
            per_template: one unit vector per template (averaged over synonyms) instead of the mean over templates.
            batch_size: prompts per forward pass.
            cache_folder: folder of the cache on disk, "" for none.
        """
        self._tower: ClipModel = getattr(clip, "text", clip)
        self._tokenizer = tokenizer
        self._templates = tuple(templates)
        self._split_synonyms = split_synonyms
        self._first_synonym = first_synonym
        self._per_template = per_template
        self._unit_prompts = unit_prompts
        self._plain = plain
        self._batch_size = batch_size
        self._cache_folder = _writable_cache(cache_folder) if cache_folder else None
        self._memory: dict[str, Tensor] = {}
        self._matrices: dict[tuple[str, ...], Tensor] = {}
        self._weights_stamp: tuple[tuple[int, int], ...] | None = None
        self._cache = TextCache(Path())
        self._use_disk = False

    @classmethod
    def from_config(
        cls, cfg: CfgNode, clip: ClipModel, tokenizer: Tokenizer, *, per_template: bool = False
    ) -> TextEmbedder:
        """With the keys of `MODEL.CLIP`."""
        keys = cfg.MODEL.CLIP
        return cls(
            clip=clip,
            tokenizer=tokenizer,
            templates=TEMPLATES[keys.TEMPLATES],
            unit_prompts=keys.UNIT_PROMPTS,
            split_synonyms=keys.SPLIT_SYNONYMS,
            first_synonym=keys.FIRST_SYNONYM,
            per_template=per_template,
            batch_size=keys.TEXT_BATCH_SIZE,
            cache_folder=keys.TEXT_CACHE,
        )

    def __call__(self, vocabulary: Vocabulary) -> Tensor:
        """Unit text embeddings `[C, D]` (`[C, P, D]` per template), on the text tower's device.

        With gradients where the tower is trained and gradients are on; from the caches otherwise.

        Raises:
            UserError: a prompt is longer than the context length.
        """
        if self._gives_gradients:
            return self._embed_classes(vocabulary)
        with _LOCK:
            self._forget_if_weights_changed()
            matrix = self._matrices.pop(vocabulary.names, None)
            if matrix is None:
                matrix = self._embed_classes(vocabulary)
            while len(self._matrices) >= _KEPT_MATRICES:
                del self._matrices[next(iter(self._matrices))]
            # Put back as the last one: dicts keep their order, so that the first is the one longest unused.
            self._matrices[vocabulary.names] = matrix
            return matrix.to(self._device)

    def embed_names(self, names: Sequence[str]) -> Tensor:
        """Unit embeddings `[N, D]` (`[N, P, D]` per template; `plain`: of CLIP's length), one row per name as it stands,
        synonyms not split.

        Raises:
            UserError: a prompt is longer than the context length.
        """
        if self._gives_gradients:
            return self._embed(names)
        with torch.no_grad(), _LOCK:
            self._forget_if_weights_changed()
            self._embed_missing(names)
            rows = torch.stack([self._memory[name] for name in names])
            self._forget_unused(names)
            return rows.to(self._device)

    def names(self, vocabulary: Vocabulary) -> tuple[tuple[str, ...], ...]:
        """The names that are embedded for each class."""
        groups = vocabulary.synonyms(split=self._split_synonyms)
        return tuple(group[:1] for group in groups) if self._first_synonym else groups

    def prompts(self, name: str) -> list[str]:
        """What the text tower reads of one name, one prompt per template."""
        return [template.format(name) for template in self._templates]

    def _embed_classes(self, vocabulary: Vocabulary) -> Tensor:
        groups = self.names(vocabulary)
        names = self.embed_names([name for group in groups for name in group])
        rows = [group.mean(dim=0) for group in names.split([len(group) for group in groups])]
        return F.normalize(torch.stack(rows), dim=-1)

    @property
    def tower(self) -> ClipModel:
        """The text tower, or the CLIP model that holds it."""
        return self._tower

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the tower."""
        return self._tokenizer

    @property
    def _is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self._text_parameters().values())

    @property
    def _gives_gradients(self) -> bool:
        return torch.is_grad_enabled() and self._is_trained

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Text features `[N, D]` of whole prompts, not normalised, with gradients where the text tower has them.

        Fastest for prompts of one template.
        """
        return self.encode_tokens(self.tokenize(prompts))

    def encode_captions(self, captions: Sequence[str], *, max_tokens: int) -> Tensor:
        """Text features `[N, D]` like `encode_prompts`; a caption of more than `max_tokens` tokens is cut."""
        tokens = self._tokenizer(list(captions), context_length=max_tokens)
        longest = int(tokens.argmax(dim=-1).max()) + 1
        return self.encode_tokens(tokens[:, :longest].to(self._device))

    @property
    def _reads_end_of_text(self) -> bool:
        """Whether a causal tower is read at the end-of-text token. SigLIP's sees all positions, padding included."""
        return self._tower.attn_mask is not None and getattr(self._tower, "pool_type", "argmax") == "argmax"

    def _check_padded(self, prompts: Sequence[str], tokens: Tensor) -> None:
        """UserError for a prompt whose tokens `[N, L]` do not end in padding, as an empty text's do."""
        padding = self._tokenizer([""], context_length=tokens.shape[1])[0, -1]
        too_long = (tokens[:, -1] != padding).nonzero().flatten()
        if len(too_long):
            raise UserError(
                f"prompt {prompts[int(too_long[0])]!r} is longer than CLIP's context of {tokens.shape[1] - 1} tokens; shorten "
                "the class name"
            )

    @property
    def _device(self) -> torch.device:
        return self._tower.token_embedding.weight.device

    def _embed_missing(self, names: Sequence[str]) -> None:
        """Fill the memory for `names`, from disk where they are, else through the text tower."""
        missing = [name for name in dict.fromkeys(names) if name not in self._memory]
        if missing and self._use_disk:
            self._memory |= self._cache.read(missing)
            missing = [name for name in missing if name not in self._memory]
        total = len(missing) * len(self._templates)
        with tqdm(
            total=total, desc="text embeddings", unit="prompt", disable=total < _LONG_WORK, leave=False, smoothing=0
        ) as bar:
            written = []
            step = self._names_at_a_time(len(missing))
            for batch in (missing[start : start + step] for start in range(0, len(missing), step)):
                rows = self._embed(batch, bar).float().cpu()
                self._memory |= dict(zip(batch, rows.unbind(), strict=True))
                # Long work that is stopped goes on from here.
                written.append(self._on_disk(functools.partial(self._cache.write, batch, rows)))
        if len(written) > 1:
            self._on_disk(lambda: self._cache.join([path for path in written if path is not None]))

    def _forget_unused(self, names: Sequence[str]) -> None:
        """Keep the words of this call and as many of the latest ones as there is room for."""
        for name in dict.fromkeys(names):
            self._memory[name] = self._memory.pop(name)
        each = next(iter(self._memory.values())).nbytes if self._memory else 1
        room = max(_KEPT_BYTES // each, len(set(names)))
        # Dicts keep their order, so that the first is the one longest unused.
        for name in list(itertools.islice(self._memory, max(0, len(self._memory) - room))):
            del self._memory[name]

    def _names_at_a_time(self, count: int) -> int:
        """Of the text tower: with many names those of one template go together, with few all templates."""
        if count >= _SHARING_NAMES:
            return self._batch_size
        return max(1, self._batch_size // len(self._templates))

    def _embed(self, names: Sequence[str], bar: tqdm | None = None) -> Tensor:
        """`embed_names` through the text tower."""
        if len(names) >= _SHARING_NAMES and not torch.is_grad_enabled():
            by_template = []
            for template in self._templates:
                by_template.append(self.encode_prompts([template.format(name) for name in names]))
                if bar is not None:
                    bar.update(len(names))
            embeddings = torch.stack(by_template, dim=1)
        else:
            prompts = [prompt for name in names for prompt in self.prompts(name)]
            embeddings = self.encode_prompts(prompts).unflatten(0, (len(names), len(self._templates)))
            if bar is not None:
                bar.update(len(prompts))
        if self._plain:
            return embeddings.mean(dim=1)
        if self._per_template:
            return F.normalize(embeddings, dim=-1)
        if self._unit_prompts:
            embeddings = F.normalize(embeddings, dim=-1)
        return F.normalize(embeddings.mean(dim=1), dim=-1)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids `[N, L]`, L the longest prompt: the causal mask makes the positions behind it irrelevant."""
        context = int(self._tower.context_length)
        # One position more than fits shows what open_clip would cut off in silence.
        tokens = self._tokenizer(list(prompts), context_length=context + 1)
        if not self._reads_end_of_text:
            self._check_padded(prompts, tokens)
            return tokens[:, :context].to(self._device)
        lengths = tokens.argmax(dim=-1) + 1
        too_long = int(lengths.argmax())
        if int(lengths[too_long]) > context:
            raise UserError(
                f"prompt {prompts[too_long]!r} is longer than CLIP's context of {context} tokens; shorten the class name"
            )
        return tokens[:, : int(lengths.max())].to(self._device)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Features `[N, D]` at the end-of-text token (the largest id) of token ids `[N, L]`."""
        tower = self._tower
        if not self._reads_end_of_text:
            return tower(tokens)
        if torch.is_grad_enabled():
            return self.read_whole(tokens)
        return self._project(ends_of_text(tower, tokens))

    def read_whole(self, tokens: Tensor) -> Tensor:
        """The features `[N, D]` of whole prompts `[N, L]` through open_clip's own transformer, with gradients."""
        tower, length = self._tower, tokens.shape[1]
        x = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        return self._project(x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=-1)])

    def _project(self, x: Tensor) -> Tensor:
        x, projection = self._tower.ln_final(x), self._tower.text_projection
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _text_parameters(self) -> dict[str, Tensor]:
        return {
            name: value for name, value in self._tower.named_parameters() if not name.startswith(("visual.", "logit_"))
        }

    def _forget_if_weights_changed(self) -> None:
        # A tensor's version counts its in-place changes, so loading or training the tower is noticed without reading it.
        stamp = tuple((p.data_ptr(), p._version) for p in self._text_parameters().values())
        if stamp == self._weights_stamp:
            return
        self._weights_stamp = stamp
        self._memory.clear()
        self._matrices.clear()
        self._use_disk = self._cache_folder is not None and not self._is_trained
        if self._use_disk and self._cache_folder is not None:
            self._cache = TextCache(self._cache_folder / self._hash_weights())

    def _hash_weights(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self._text_parameters().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        digest.update(b"a file per vocabulary")
        # Two networks with equal weights differ by activation (QuickGELU or GELU), which is not a tensor.
        digest.update(repr(self._tower.transformer).encode())
        digest.update(repr((self._templates, self._unit_prompts, self._per_template)).encode())
        if self._plain:
            digest.update(b"plain")
        return digest.hexdigest()[:32]

    def _on_disk(self, write: Callable[[], Path]) -> Path | None:
        """What `write` keeps embeddings in; None without a cache on disk, or where that is not possible."""
        if not self._use_disk:
            return None
        try:
            return write()
        except (UserError, SafetensorError) as error:
            # A cache is a help, not a need: said once, then done without.
            logger.warning("text embeddings are not kept on disk: %s (MODEL.CLIP.TEXT_CACHE '' for none)", error)
            self._use_disk, self._cache_folder = False, None
            return None

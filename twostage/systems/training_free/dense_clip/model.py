"""Dense predictions from a frozen CLIP without any training: one system, the method is a config key.

An image, or its sliding windows in one batch, gives CLIP embeddings per patch (`twostage/clip/dense/tower.py`); their cosine
similarities with the text embeddings of all names are resized, refined and decided by `prediction.py`.

Legend: N names, D embedding size, h x w the mosaic of all windows' grids of an image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor
from torch.profiler import record_function

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.dense.tower import DenseTower, use_exact_gelu
from twostage.clip.loading import clip_reader_from_config, load_clip_from_config
from twostage.clip.text import TextEmbedder
from twostage.clip.towers.resnet import is_clip_resnet
from twostage.clip.towers.siglip import is_siglip
from twostage.inference.keys import Padding
from twostage.inference.mosaic import Mosaic
from twostage.inference.resampling import Size
from twostage.inference.sliding import TileGrid
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, LazySimilarities, NamePrediction
from twostage.systems.training_free.dense_clip.refinement import denoise_prompts, operate_features, smooth_by_keys
from twostage.systems.training_free.dense_clip.weights import checkpoint_table, maskclip_table
from twostage.vocabulary import Vocabulary


class PatchEmbeddings(NamedTuple):
    """Unit patch embeddings `[D, h, w]` of one image and what else its prediction needs.

    `class_embeddings` `[D, rows, columns]` are the windows' unit image embeddings (feature surgery), `keys` `[h * w, W]`
    MaskCLIP's keys, `guide` `[3, H, W]` the normalised picture (PAMR); None where not needed. `beside` is whatever a system
    that derives from this one knows of the image as well.
    """

    features: Tensor
    mosaic: Mosaic
    class_embeddings: Tensor | None
    keys: Tensor | None
    guide: Tensor | None
    beside: Any = None


class NameEmbeddings(NamedTuple):
    """Unit text embeddings `[N, D]` of names, the class of each (ascending, `[N]`), and the number of classes."""

    rows: Tensor
    classes: Tensor
    num_classes: int


def embed_rows(
    text: TextEmbedder, vocabulary: Vocabulary, background_words: Sequence[str], *, by_maximum: bool
) -> NameEmbeddings:
    """One row per synonym (`by_maximum`) or per class; `background_words` stand for a first class "background"."""
    names = vocabulary.names
    if background_words and names[0].casefold() == "background":
        vocabulary = Vocabulary((", ".join(background_words), *names[1:]))
    if not by_maximum:
        rows = text(vocabulary)
        return NameEmbeddings(rows, torch.arange(len(rows), device=rows.device), len(rows))
    groups = vocabulary.synonyms(split=True)
    rows = text.embed_names([name for group in groups for name in group])
    counts = torch.tensor([len(group) for group in groups], device=rows.device)
    return NameEmbeddings(rows, torch.arange(len(groups), device=rows.device).repeat_interleave(counts), len(groups))


def rule_from_config(cfg: CfgNode) -> LabelRule:
    """How similarities become labels, by `MODEL.TRAINING_FREE`."""
    keys = cfg.MODEL.TRAINING_FREE
    return LabelRule(
        logit_scale=keys.LOGIT_SCALE,
        probability_threshold=keys.PROBABILITY_THRESHOLD,
        area_threshold=keys.AREA_THRESHOLD,
        renormalise=keys.RENORMALISE,
    )


@META_ARCH_REGISTRY.register()
class TrainingFree(OpenVocabularySegmenter[list[PatchEmbeddings], NameEmbeddings]):
    """Frozen CLIP as a segmenter; `MODEL.TRAINING_FREE.METHOD` says how."""

    @configurable
    def __init__(
        self,
        *,
        tower: DenseTower,
        rule: LabelRule,
        tile: int,
        stride: int,
        padding: Padding,
        through_input_size: bool,
        windows_per_batch: int,
        key_smoothing: float,
        prompt_denoising: float,
        feature_surgery: bool,
        pamr_steps: int,
        pamr_dilations: list[int],
        synonyms_by_maximum: bool,
        background_words: list[str],
        read_clip: Supply,
        **shared: Any,
    ) -> None:
        """See `keys.py`; `tile` 0 means the whole image, `read_clip` reads CLIP's own weights (MaskCLIP's checkpoints
        hold no text tower), `shared` is `OpenVocabularySegmenter`'s."""
        super().__init__(**shared)
        self.requires_grad_(False)
        self.tower = tower
        self.rule = rule
        self.tile = tile
        self.stride = stride
        self.padding = padding
        self.through_input_size = through_input_size
        self.windows_per_batch = windows_per_batch
        self.key_smoothing = key_smoothing
        self.prompt_denoising = prompt_denoising
        self.feature_surgery = feature_surgery
        self.pamr_steps = pamr_steps
        self.pamr_dilations = pamr_dilations
        self.synonyms_by_maximum = synonyms_by_maximum
        self.background_words = background_words
        self.read_clip = read_clip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.TRAINING_FREE`, `MODEL.CLIP` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        keys = cfg.MODEL.TRAINING_FREE
        if keys.EXACT_GELU:
            use_exact_gelu(clip.visual, norm_eps=keys.NORM_EPS)
        sliding = cfg.TEST.SLIDING
        return {
            **shared_arguments(cfg, clip, tokenizer),
            "tower": dense_tower_from_config(cfg, clip.visual),
            "rule": rule_from_config(cfg),
            "tile": sliding.TILE if sliding.ENABLED else 0,
            "stride": sliding.STRIDE,
            "padding": keys.PADDING,
            "through_input_size": keys.THROUGH_INPUT_SIZE,
            "windows_per_batch": keys.WINDOWS_PER_BATCH,
            "key_smoothing": keys.KEY_SMOOTHING,
            "prompt_denoising": keys.PROMPT_DENOISING,
            "feature_surgery": keys.FEATURE_SURGERY,
            "pamr_steps": keys.PAMR_STEPS,
            "pamr_dilations": list(keys.PAMR_DILATIONS),
            "synonyms_by_maximum": keys.SYNONYMS == "maximum",
            "background_words": list(keys.BACKGROUND_WORDS),
            "read_clip": clip_reader_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """`MODEL.WEIGHTS` may be a CLIP checkpoint in OpenAI's names."""
        return checkpoint_table()

    def checkpoint_tables(self) -> tuple[CheckpointTable, ...]:
        """Or one of MaskCLIP, where the image tower is of a kind that it knows."""
        if is_siglip(self.clip.visual):
            return (checkpoint_table(),)
        resnet = is_clip_resnet(self.clip.visual)
        return checkpoint_table(), maskclip_table(resnet=resnet, read_clip=self.read_clip)

    def embed_vocabulary(self, vocabulary: Vocabulary) -> NameEmbeddings:
        """One row per synonym, or per class where synonyms are averaged; the background's words in its place."""
        return embed_rows(self.text, vocabulary, self.background_words, by_maximum=self.synonyms_by_maximum)

    def encode(self, images: ImageList) -> list[PatchEmbeddings]:
        """Features of each image (at its own size, without the batch's padding), all its windows in one batch."""
        sizes = [(height, width) for height, width in images.image_sizes]
        return [
            self._encode_one(image[:, : size[0], : size[1]], size)
            for image, size in zip(images.tensor, sizes, strict=True)
        ]

    def mosaic_of(self, size: Size) -> Mosaic:
        """Where the network's windows lie in a picture of `size`, and how they are padded."""
        return Mosaic(
            tiles=TileGrid.covering(size, tile=(self.tile, self.tile), stride=(self.stride, self.stride))
            if self.tile
            else TileGrid.whole(size),
            padding=self.padding,
            patch=self.tower.window_multiple,
            through_canvas=bool(self.tile) or self.through_input_size,
        )

    def _encode_one(self, image: Tensor, size: Size) -> PatchEmbeddings:
        mosaic = self.mosaic_of(size)
        with record_function("trunk"):
            parts = [self.tower(windows) for windows in mosaic.cut(image).split(self.windows_per_batch)]
        patches = torch.cat([part.patches for part in parts])
        class_embeddings = None
        if self.feature_surgery and parts[0].class_embedding is not None:
            embeddings = F.normalize(torch.cat([cast(Tensor, part.class_embedding) for part in parts]), dim=-1)
            class_embeddings = mosaic.assemble(embeddings[..., None, None])
        return PatchEmbeddings(
            features=mosaic.assemble(F.normalize(patches, dim=1)),
            mosaic=mosaic,
            class_embeddings=class_embeddings,
            keys=None if parts[0].keys is None else parts[0].keys[0],
            guide=image if self.pamr_steps else None,
        )

    def decode(self, encoded: list[PatchEmbeddings], text: NameEmbeddings) -> NamePrediction:
        with record_function("similarities"):
            maps: list[Tensor | LazySimilarities] = [
                # Methods that compare names with each other need all of them.
                self.similarities(image, text.rows)
                if self.compares_names
                else LazySimilarities(text.rows, image.features)
                for image in encoded
            ]
            images = [ImageMaps(m, image.mosaic, image.guide) for m, image in zip(maps, encoded, strict=True)]
        return NamePrediction(
            images=images,
            classes=text.classes,
            num_classes=text.num_classes,
            rule=self.rule,
            pamr_steps=self.pamr_steps,
            pamr_dilations=self.pamr_dilations,
        )

    def decode_rivalled(self, encoded: list[PatchEmbeddings], text: NameEmbeddings) -> NamePrediction:
        """Without the thresholds that turn a pixel into background, class 0, whichever word is its best.

        PAMR, which costs most, refines only names that are the best of some patch.
        """
        if self.pamr_steps and not self.compares_names:
            text = self._best_somewhere(encoded, text)
        rule = dataclasses.replace(self.rule, probability_threshold=0.0, area_threshold=0.0)
        return dataclasses.replace(self.decode(encoded, text), rule=rule)

    def _best_somewhere(self, encoded: list[PatchEmbeddings], text: NameEmbeddings) -> NameEmbeddings:
        winners = [self.similarities(image, text.rows).argmax(dim=0).flatten() for image in encoded]
        kept = torch.cat(winners).unique()
        return NameEmbeddings(text.rows[kept], text.classes[kept], text.num_classes)

    @property
    def compares_names(self) -> bool:
        """Whether a name's similarities depend on the other names."""
        return bool(self.feature_surgery or self.prompt_denoising or self.key_smoothing)

    def similarities(self, image: PatchEmbeddings, rows: Tensor) -> Tensor:
        """Similarities `[N, h, w]` of an image's patches with text embeddings `[N, D]`, after the method's refinements."""
        maps = torch.einsum("nd,dhw->nhw", rows, image.features)
        if image.class_embeddings is not None:
            of_windows = torch.einsum("nd,dhw->nhw", rows, image.class_embeddings)
            of_patches = F.interpolate(of_windows[None], size=maps.shape[-2:], mode="nearest")[0]
            maps = operate_features(maps, of_patches)
        if self.prompt_denoising:
            maps = denoise_prompts(maps, self.prompt_denoising)
        if self.key_smoothing:
            assert image.keys is not None, "the tower returns keys where they are smoothed by"
            maps = smooth_by_keys(maps, image.keys, self.key_smoothing)
        return maps


def dense_tower_from_config(cfg: CfgNode, visual: Any) -> DenseTower:
    """The reader of dense features that `MODEL.TRAINING_FREE` describes, on CLIP's image tower."""
    keys = cfg.MODEL.TRAINING_FREE
    return DenseTower(
        visual=visual,
        method=keys.METHOD,
        full={"auto": None, "full": True, "reduced": False}[keys.LAST_BLOCK],
        gaussian_std=keys.GAUSSIAN_STD,
        position_rule=keys.POSITION_RULE,
        split_depth=keys.SPLIT_DEPTH,
        gem_iterations=keys.GEM_ITERATIONS,
        gem_temperature=keys.GEM_TEMPERATURE or None,
        with_keys=bool(keys.KEY_SMOOTHING),
    )

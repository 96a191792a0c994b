"""MaskCLIP+: a segmentation network trained on a training-free system's pseudo labels (Zhou et al., ECCV 2022, section 3.4).

The network's features are compared with the same text embeddings as CLIP's, so it stays open-vocabulary. Labels of some
classes, or of all (annotation-free), are hidden; those pixels are labelled by the teacher, dense CLIP, on the same
augmented crop, and later by the network itself.

Legend: B images, C classes, U classes without labels, D embedding size, h x w the network's grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from twostage.checkpoint.renaming import CheckpointTable, Supply
from twostage.clip.dense.tower import DenseTower, use_exact_gelu
from twostage.clip.loading import clip_reader_from_config, load_clip_from_config
from twostage.clip.towers.resnet import is_clip_resnet
from twostage.errors import UserError
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.segmenter import OpenVocabularySegmenter, shared_arguments
from twostage.systems.one_stage.maskclip_plus.network import HEADS, DilatedConvNeXt, DilatedResNet
from twostage.systems.one_stage.maskclip_plus.weights import checkpoint_table
from twostage.systems.training_free.dense_clip.model import dense_tower_from_config
from twostage.systems.training_free.dense_clip.refinement import denoise_prompts, smooth_by_keys
from twostage.vocabulary import Vocabulary

_IGNORE = 255
# Label of a pixel that awaits its pseudo label.
_HIDDEN = -1


class Encoded(NamedTuple):
    """Features `[B, D, h, w]` of the network and where they lie."""

    features: Tensor
    geometry: Geometry


@META_ARCH_REGISTRY.register()
class MaskClipPlus(OpenVocabularySegmenter[Encoded, Tensor]):
    """A DeepLab on frozen text embeddings; its teacher is described by `MODEL.TRAINING_FREE`.

    Trainable: the backbone, the head and, where class 0 is the background, its embedding.
    """

    iteration: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: DilatedResNet | DilatedConvNeXt,
        head: nn.Module,
        enlarge: float,
        tower: DenseTower,
        key_smoothing: float,
        prompt_denoising: float,
        pad_teacher: bool,
        hidden_classes: list[int],
        clip_guided_iterations: int,
        learned_background: bool,
        read_clip: Supply,
        **shared: Any,
    ) -> None:
        """
        Args:
            enlarge: the network sees the images enlarged by this.
            tower: the teacher's reader of dense CLIP features.
            key_smoothing, prompt_denoising: the teacher's refinements, 0 for none.
            pad_teacher: zero-pad the teacher's input to whole patches.
            hidden_classes: classes without labels; [] for all of them (annotation-free).
            clip_guided_iterations: from this iteration on (the first is 1) the network labels its own images; negative: never.
            learned_background: class 0 is the background, with a learned embedding instead of its name's.
            read_clip: CLIP's own weights, for official checkpoints, which hold no text tower.
            shared: see `OpenVocabularySegmenter`.
        """
        super().__init__(**shared)
        self.clip.requires_grad_(False)
        self.backbone = backbone
        self.head = head
        self.enlarge = enlarge
        self.tower = tower
        self.key_smoothing = key_smoothing
        self.prompt_denoising = prompt_denoising
        self.pad_teacher = pad_teacher
        self.hidden_classes = hidden_classes
        self.clip_guided_iterations = clip_guided_iterations
        self.read_clip = read_clip
        size = int(self.clip.visual.output_dim)
        self.background_embedding = nn.Parameter(torch.randn(1, size)) if learned_background else None
        # Saved, so that a resumed run keeps its place in the schedule.
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.MASKCLIP_PLUS`, `MODEL.TRAINING_FREE` and `MODEL.CLIP`."""
        clip, tokenizer = load_clip_from_config(cfg)
        keys, teacher = cfg.MODEL.MASKCLIP_PLUS, cfg.MODEL.TRAINING_FREE
        if teacher.EXACT_GELU:
            use_exact_gelu(clip.visual, norm_eps=teacher.NORM_EPS)
        backbone = _backbone_from_config(cfg)
        return {
            **shared_arguments(cfg, clip, tokenizer),
            "backbone": backbone,
            "head": HEADS[keys.HEAD](backbone.channels, int(clip.visual.output_dim)),
            "enlarge": keys.ENLARGE,
            "tower": dense_tower_from_config(cfg, clip.visual),
            "key_smoothing": teacher.KEY_SMOOTHING,
            "prompt_denoising": teacher.PROMPT_DENOISING,
            "pad_teacher": teacher.PADDING != "none",
            "hidden_classes": list(keys.HIDDEN_CLASSES),
            "clip_guided_iterations": keys.CLIP_GUIDED_ITERATIONS,
            "learned_background": keys.LEARNED_BACKGROUND,
            "read_clip": clip_reader_from_config(cfg),
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(resnet_teacher=is_clip_resnet(self.clip.visual), read_clip=self.read_clip)

    def train(self, mode: bool = True) -> MaskClipPlus:
        """The teacher's batch norms never train."""
        super().train(mode)
        self.clip.eval()
        return self

    def embed_vocabulary(self, vocabulary: Vocabulary) -> Tensor:
        """Unit text embeddings `[C, D]`; without the background's row where that is learned.

        Raises:
            UserError: a learned background and a vocabulary that does not begin with it.
        """
        return self.text(names_to_embed(vocabulary, learned_background=self.background_embedding is not None))

    def encode(self, images: ImageList) -> Encoded:
        x = images.tensor
        if self.enlarge != 1:
            x = F.interpolate(x, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        return Encoded(self.head(self.backbone(x)), Geometry.of(images))

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """Products `[B, C, h, w]` of features `[B, D, h, w]` with the classes, the learned background first."""
        if self.background_embedding is not None:
            text = torch.cat([F.normalize(self.background_embedding, dim=-1), text])
        return torch.einsum("cd,bdhw->bchw", text, features)

    def decode(self, encoded: Encoded, text: Tensor) -> DensePrediction:
        logits = self.logits(encoded.features, text)
        return DensePrediction(logits=logits, geometry=encoded.geometry, num_classes=logits.shape[1])

    def losses(
        self, encoded: Encoded, text: Tensor, batch: list[dict[str, Any]], images: ImageList
    ) -> dict[str, Tensor]:
        labels = self.hide(stack_labels(batch, images))
        logits = self.logits(encoded.features, text)
        self.iteration += 1
        targets = self.pseudo_labels(labels, encoded.features.detach(), text, images.tensor)
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        # As in mmseg, ignored pixels count in the mean.
        loss = F.cross_entropy(logits, targets, ignore_index=_IGNORE, reduction="sum") / targets.numel()
        return {"loss_ce": loss}

    def hide(self, labels: Tensor) -> Tensor:
        """Labels `[B, H, W]` with those of the hidden classes as -1."""
        if not self.hidden_classes:
            return labels.masked_fill(labels != _IGNORE, _HIDDEN)
        hidden = torch.tensor(self.hidden_classes, device=labels.device)
        return labels.masked_fill(torch.isin(labels, hidden), _HIDDEN)

    @torch.no_grad()
    def pseudo_labels(self, labels: Tensor, features: Tensor, text: Tensor, images: Tensor) -> Tensor:
        """Labels `[B, H, W]` with a class in place of every -1.

        Args:
            features: the network's own `[B, D, h, w]`, for self-training.
            text: of all classes but a learned background, `[C, D]`.
            images: normalised `[B, 3, H, W]`, for the teacher.
        """
        first = 0 if self.background_embedding is None else 1
        classes = torch.tensor(self.hidden_classes or range(first, first + len(text)), device=labels.device)
        rows = text[classes - first]
        if 0 <= self.clip_guided_iterations <= int(self.iteration):
            scores = torch.einsum("ud,bdhw->buhw", rows, features)
        else:
            scores = self.teach(images, rows)
        scores = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        return torch.where(labels == _HIDDEN, classes[scores.argmax(dim=1)], labels)

    def pad_for_teacher(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` zero-padded to whole patches, where the teacher pads."""
        if not self.pad_teacher:
            return images
        height, width = self.tower.patch_size
        return F.pad(images, (0, -images.shape[-1] % width, 0, -images.shape[-2] % height))

    def teach(self, images: Tensor, rows: Tensor) -> Tensor:
        """The teacher's similarities `[B, U, h', w']` of normalised images `[B, 3, H, W]` with text rows `[U, D]`."""
        dense = self.tower(self.pad_for_teacher(images))
        maps = torch.einsum("ud,bdhw->buhw", rows, F.normalize(dense.patches, dim=1))
        if self.prompt_denoising:
            maps = torch.stack([denoise_prompts(m, self.prompt_denoising) for m in maps])
        if self.key_smoothing and dense.keys is not None:
            pairs = zip(maps, dense.keys, strict=True)
            maps = torch.stack([smooth_by_keys(m, keys, self.key_smoothing) for m, keys in pairs])
        return maps


def names_to_embed(vocabulary: Vocabulary, *, learned_background: bool) -> Vocabulary:
    """Without the first class where that is the background and has a learned embedding.

    Raises:
        UserError: a learned background and a vocabulary that does not begin with it.
    """
    if not learned_background:
        return vocabulary
    if vocabulary.names[0].casefold() != "background" or len(vocabulary) < 2:
        raise UserError(
            "MODEL.MASKCLIP_PLUS.LEARNED_BACKGROUND needs a vocabulary whose first class is 'background'; it begins "
            f"with {vocabulary.names[0]!r}"
        )
    return Vocabulary(vocabulary.names[1:])


def _backbone_from_config(cfg: CfgNode) -> DilatedResNet | DilatedConvNeXt:
    keys = cfg.MODEL.MASKCLIP_PLUS
    # A checkpoint holds the network, so that nothing else is read where one is given.
    if keys.BACKBONE.startswith("resnet"):
        pretrained = keys.PRETRAINED and not cfg.MODEL.WEIGHTS
        return DilatedResNet(keys.BACKBONE, pretrained=pretrained, output_stride=keys.OUTPUT_STRIDE)
    weights = "" if cfg.MODEL.WEIGHTS else keys.CLIP_WEIGHTS
    return DilatedConvNeXt(keys.BACKBONE, weights=weights, output_stride=keys.OUTPUT_STRIDE)


def stack_labels(batch: list[dict[str, Any]], images: ImageList) -> Tensor:
    """The batch's `sem_seg` as `[B, H, W]`, ignored where images are padded."""
    height, width = images.tensor.shape[-2:]
    labels = [entry["sem_seg"].to(images.tensor.device).long() for entry in batch]
    return torch.stack(
        [F.pad(label, (0, width - label.shape[1], 0, height - label.shape[0]), value=_IGNORE) for label in labels]
    )

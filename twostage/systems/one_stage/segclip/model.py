"""SegCLIP: patch aggregation with learnable centres (Luo et al., ICML 2023); learns to segment from captions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from open_clip.loss import ClipLoss
from torch import Tensor

from twostage.checkpoint.renaming import CheckpointTable
from twostage.clip.loading import load_clip_from_config
from twostage.clip.towers.vit import Tokens, embed_image, require_vit, run_blocks
from twostage.errors import UserError
from twostage.segmenter import shared_arguments
from twostage.systems.captioned import CaptionLearner
from twostage.systems.one_stage.segclip.encoder import ImageEncoding, encode_image, split_blocks
from twostage.systems.one_stage.segclip.grouped import LARGEST_SCALE, GroupSegmenter
from twostage.systems.one_stage.segclip.losses import patch_superpixels, superpixel_loss
from twostage.systems.one_stage.segclip.reconstruction import MaskedReconstruction, choose_visible
from twostage.systems.one_stage.segclip.semantic_layer import SemanticLayer
from twostage.systems.one_stage.segclip.weights import checkpoint_table


@META_ARCH_REGISTRY.register()
class SegCLIP(CaptionLearner, GroupSegmenter):
    """CLIP whose patches are gathered into groups by learnable centres; the groups are named with words.

    Trains on batch entries with `image`, `caption` and `superpixels` (int `[H, W]`), without any segmentation label.
    """

    @configurable
    def __init__(
        self,
        *,
        semantic_layer: SemanticLayer,
        reconstruction: MaskedReconstruction,
        group_blocks: int,
        hidden_share: float,
        caption_tokens: int,
        loss_weights: dict[str, float],
        **shared: Any,
    ) -> None:
        """
        Args:
            group_blocks: CLIP's last blocks, which see groups instead of patches.
            hidden_share: share of the tokens hidden from the second pass.
            caption_tokens: captions are cut to this length.
            loss_weights: of "contrastive", "superpixel" and "reconstruction".
            shared: see `GroupSegmenter`.
        """
        super().__init__(**shared)
        self.semantic_layer = semantic_layer
        self.reconstruction = reconstruction
        self.group_blocks = group_blocks
        self.hidden_share = hidden_share
        self.caption_tokens = caption_tokens
        self.loss_weights = loss_weights
        visual = self.clip.visual
        for frozen in (self.clip.token_embedding, visual.conv1, visual.ln_pre):
            frozen.requires_grad_(False)
        for parameter in (self.clip.positional_embedding, visual.positional_embedding, visual.class_embedding):
            parameter.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.SEGCLIP`, `MODEL.CLIP`, `INPUT.CAPTIONS` and `TEST.SLIDING`."""
        clip, tokenizer = load_clip_from_config(cfg)
        visual = clip.visual
        require_vit(visual, "SegCLIP")
        keys, sliding = cfg.MODEL.SEGCLIP, cfg.TEST.SLIDING
        blocks = visual.transformer.resblocks
        if not len(blocks) > keys.GROUP_BLOCKS:
            raise UserError(
                f"MODEL.SEGCLIP.GROUP_BLOCKS is {keys.GROUP_BLOCKS}; {cfg.MODEL.CLIP.NAME!r} has {len(blocks)} blocks, so "
                f"1 to {len(blocks) - 1} are allowed"
            )
        like_clip = {
            "width": visual.class_embedding.shape[0],
            "heads": blocks[0].attn.num_heads,
            "num_centres": keys.NUM_CENTRES,
            "activation": type(blocks[0].mlp.gelu),
        }
        patch = visual.conv1.kernel_size[0]
        semantic_layer = SemanticLayer(**like_clip, mix_batch=keys.MIX_BATCH)
        if keys.START == "content":
            semantic_layer.start_from_content()
        return {
            **shared_arguments(cfg, clip, tokenizer),
            "semantic_layer": semantic_layer,
            "reconstruction": MaskedReconstruction(
                **like_clip,
                grid=(cfg.INPUT.CAPTIONS.SIZE // patch, cfg.INPUT.CAPTIONS.SIZE // patch),
                patch_size=patch,
                decoder_width=keys.DECODER_WIDTH,
                decoder_depth=keys.DECODER_DEPTH,
                decoder_heads=keys.DECODER_HEADS,
            ),
            "group_blocks": keys.GROUP_BLOCKS,
            "hidden_share": keys.HIDDEN_SHARE,
            "caption_tokens": keys.CAPTION_TOKENS,
            "loss_weights": {
                "contrastive": keys.CONTRASTIVE_WEIGHT,
                "superpixel": keys.SUPERPIXEL_WEIGHT,
                "reconstruction": keys.RECONSTRUCTION_WEIGHT,
            },
            "window": (sliding.TILE, sliding.STRIDE) if sliding.ENABLED else None,
            "background_threshold": keys.BACKGROUND_THRESHOLD,
        }

    def checkpoint_table(self) -> CheckpointTable:
        """Official names of this model's tensors."""
        return checkpoint_table(len(self.clip.visual.transformer.resblocks) - self.group_blocks)

    def parameter_group(self, name: str) -> str | None:
        """CLIP's own parts take `SOLVER.CLIP_MULTIPLIER`, but for those that now see groups (section 4.1)."""
        blocks = len(self.clip.visual.transformer.resblocks)
        of_groups = [f"clip.visual.transformer.resblocks.{i}." for i in range(blocks - self.group_blocks, blocks)] + [
            "clip.visual.ln_post.",
            "clip.visual.proj",
        ]
        return "clip" if name.startswith("clip.") and not name.startswith(tuple(of_groups)) else None

    @property
    def scale(self) -> Tensor:
        return self.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)

    def caption_losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The three weighted losses of a batch of pairs (SegCLIP, section 3.3)."""
        with torch.no_grad():
            # Kept in range after every step, as published; doing it before the next one is the same.
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        images = self.preprocess(batch).tensor
        superpixels = torch.stack([entry["superpixels"] for entry in batch]).to(images.device)
        text = self.text.encode_captions([entry["caption"] for entry in batch], max_tokens=self.caption_tokens)
        encoding = encode_image(self.clip.visual, self.semantic_layer, images, self.group_blocks)
        contrast = ClipLoss(
            local_loss=True, gather_with_grad=True, rank=comm.get_rank(), world_size=comm.get_world_size()
        )
        ids = patch_superpixels(superpixels, self.reconstruction.patch_size)
        losses = {
            "contrastive": contrast(F.normalize(encoding.image, dim=-1), F.normalize(text, dim=-1), self.scale),
            "superpixel": superpixel_loss(encoding.grouping.hard, ids),
            "reconstruction": self._reconstruction_loss(images),
        }
        return {f"loss_{name}": self.loss_weights[name] * value for name, value in losses.items()}

    def _reconstruction_loss(self, images: Tensor) -> Tensor:
        """A second pass that sees few patches and has to tell the pixels of the others."""
        tokens = embed_image(self.clip.visual, images)
        visible = choose_visible(masking_noise(tokens.x), self.hidden_share)
        x = tokens.x.gather(1, visible.tokens[..., None].expand(-1, -1, tokens.x.shape[2]))
        patch_stage, _ = split_blocks(self.clip.visual, self.group_blocks)
        grouping = self.semantic_layer(run_blocks(patch_stage, Tokens(x, tokens.grid))[0].x)
        predicted = self.reconstruction(grouping, visible.restore)
        return self.reconstruction.loss(predicted, images, visible.hidden)

    @property
    def patch(self) -> tuple[int, int]:
        return self.clip.visual.conv1.kernel_size

    def encode_windows(self, windows: Tensor) -> ImageEncoding:
        return encode_image(self.clip.visual, self.semantic_layer, windows, self.group_blocks)


def masking_noise(tokens: Tensor) -> Tensor:
    """Uniform noise `[B, N]` for tokens `[B, N, W]`, which decides what is hidden."""
    return torch.rand(tokens.shape[:2], device=tokens.device)

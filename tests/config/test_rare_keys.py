"""Keys that no config of ours sets and no other test names: each reaches the part that it is about.

They are published constants that ablations vary, bounds of memory, or figures of a variant; MODEL.X.Y stands for a test of
what Y does to X's outputs elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from twostage.config import load_config
from twostage.data.caption_mapper import CaptionMapper
from twostage.data.loaders import build_train_loader
from twostage.systems.building import build_model

TOYBOX = Path(__file__).parents[2] / "configs" / "toybox"
EXPERTS = ("MODEL.COST_AGGREGATION.FEED_FORWARD", "shared_experts")
CORRELATED = ("MODEL.COST_AGGREGATION.IMAGE_CORRELATION", "append")
PRESENT = ("MODEL.PRESENCE.HEAD", "cross_attention")
V1 = ("MODEL.CATSEG.BACKBONE.ENABLED", "True", "MODEL.RESNETS.DEPTH", "14")
GEM = ("MODEL.TRAINING_FREE.METHOD", "gem")
VOTES = ("TEST.EARLY_REJECTION.ENABLED", "True", "TEST.EARLY_REJECTION.RULE", "votes")
BIASED = ("MODEL.OVSEG.REGIONS", "attention_bias")


def config(name: str, *opts: str) -> Any:
    base = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")
    return load_config(str(TOYBOX / f"{name}.yaml"), [*base, *opts])


def mlp(model: Any) -> Any:
    return model.aggregator.layers[0].classes.mlp


# (config, what it needs besides, key, value, where the built model has it, what is there)
KEYS: list[tuple[str, tuple[str, ...], str, str, Callable[[Any], Any], Any]] = [
    ("errseg", (), "MODEL.ERRSEG.DROP_PATH", "0.4", lambda m: m.aggregator.layers[1].spatial.drop.rate, 0.2),
    ("pcaseg", (), "MODEL.PCASEG.EXPERTS", "2", lambda m: len(m.aggregator.layers[0].blocks[1].fusion.experts), 2),
    ("pcaseg", (), "MODEL.PCASEG.ORTHOGONALITY_WEIGHT", "0.5", lambda m: m.pass_losses.weight, 0.5),
    ("sed", VOTES, "TEST.EARLY_REJECTION.SLOTS", "5", lambda m: m.early_rejection.slots, 5),
    ("san", (), "MODEL.CLIP.TEXT_BATCH_SIZE", "7", lambda m: m.text._batch_size, 7),
    ("san", (), "MODEL.MASK_LOSS.OVERSAMPLE_RATIO", "4.0", lambda m: m.criterion.oversample_ratio, 4.0),
    ("san", (), "MODEL.MASK_LOSS.IMPORTANCE_SAMPLE_RATIO", "0.5", lambda m: m.criterion.importance_sample_ratio, 0.5),
    ("catseg", V1, "MODEL.CATSEG.BACKBONE.PIXEL_MEAN", "[1., 2., 3.]", lambda m: m.guide.units.mean.sum().item(), 6),
    ("catseg", V1, "MODEL.CATSEG.BACKBONE.PIXEL_STD", "[1., 2., 3.]", lambda m: m.guide.units.std.sum().item(), 6),
    ("catseg", (), "MODEL.CATSEG.SPATIAL_AGGREGATION", "False", lambda m: m.aggregator.layers[0].spatial, None),
    ("catseg", (), "MODEL.CATSEG.CLASS_AGGREGATION", "False", lambda m: m.aggregator.layers[0].classes, None),
    ("catseg", (), "MODEL.CATSEG.EMBEDDING_GUIDANCE", "False", lambda m: m.aggregator.appearance, None),
    ("catseg", EXPERTS, "MODEL.COST_AGGREGATION.EXPERTS", "5", lambda m: len(mlp(m).experts), 5),
    ("catseg", EXPERTS, "MODEL.COST_AGGREGATION.ACTIVE_EXPERTS", "3", lambda m: mlp(m).active, 3),
    ("catseg", EXPERTS, "MODEL.COST_AGGREGATION.SHARED_EXPERTS", "2", lambda m: len(mlp(m).shared), 2),
    ("catseg", EXPERTS, "MODEL.COST_AGGREGATION.BALANCE_WEIGHT", "0.5", lambda m: m.pass_losses.weight, 0.5),
    ("catseg", CORRELATED, "MODEL.COST_AGGREGATION.CORRELATION_SHIFT", "1.5", lambda m: m.correlation.shift, 1.5),
    ("catseg", CORRELATED, "MODEL.COST_AGGREGATION.CORRELATION_SCALE", "2.5", lambda m: m.correlation.scale, 2.5),
    ("catseg", PRESENT, "MODEL.PRESENCE.WEIGHT", "0.25", lambda m: m.presence.weight, 0.25),
    ("catseg", PRESENT, "MODEL.PRESENCE.CHANNELS", "32", lambda m: m.presence.head.query.out_features, 32),
    ("segclip", (), "MODEL.SEGCLIP.HIDDEN_SHARE", "0.25", lambda m: m.hidden_share, 0.25),
    ("segclip", (), "MODEL.SEGCLIP.CAPTION_TOKENS", "9", lambda m: m.caption_tokens, 9),
    ("segclip", (), "MODEL.SEGCLIP.CONTRASTIVE_WEIGHT", "2.5", lambda m: m.loss_weights["contrastive"], 2.5),
    ("segclip", (), "MODEL.SEGCLIP.SUPERPIXEL_WEIGHT", "2.5", lambda m: m.loss_weights["superpixel"], 2.5),
    ("segclip", (), "MODEL.SEGCLIP.RECONSTRUCTION_WEIGHT", "2.5", lambda m: m.loss_weights["reconstruction"], 2.5),
    ("gem", GEM, "MODEL.TRAINING_FREE.GEM_ITERATIONS", "3", lambda m: m.tower.gem_iterations, 3),
    ("gem", GEM, "MODEL.TRAINING_FREE.GEM_TEMPERATURE", "0.5", lambda m: m.tower.gem_temperature, 0.5),
    ("gem", GEM, "MODEL.TRAINING_FREE.GEM_TEMPERATURE", "0.0", lambda m: m.tower.gem_temperature, None),
    ("maskclip", (), "MODEL.TRAINING_FREE.WINDOWS_PER_BATCH", "3", lambda m: m.windows_per_batch, 3),
    ("maskclip", (), "MODEL.TRAINING_FREE.PROMPT_DENOISING", "0.5", lambda m: m.prompt_denoising, 0.5),
    ("maskclip", (), "MODEL.TRAINING_FREE.SYNONYMS", "mean", lambda m: m.synonyms_by_maximum, False),
    ("ovseg", (), "MODEL.OVSEG.LOGIT_SCALE", "50.0", lambda m: m.logit_scale, 50.0),
    ("ovseg", BIASED, "MODEL.OVSEG.BIASED_BLOCKS", "2", lambda m: m.regions.blocks, 2),
    ("scan", (), "MODEL.SCAN.CROP_BATCH", "5", lambda m: m.regions.batch_size, 5),
]


@pytest.mark.parametrize(("name", "opts", "key", "value", "place", "wanted"), KEYS, ids=[row[2] for row in KEYS])
def test_a_key_reaches_its_part(name, opts, key, value, place, wanted):
    torch.manual_seed(0)
    assert place(build_model(config(name, *opts, key, value))) == wanted


def test_superpixels_are_smoothed_as_the_config_says():
    assert (
        CaptionMapper.from_config(config("segclip", "INPUT.CAPTIONS.SUPERPIXEL_SIGMA", "1.25")).superpixel_sigma == 1.25
    )


@pytest.mark.parametrize("wanted", [True, False])
def test_broken_training_files_are_left_out_where_the_config_says_so(wanted):
    cfg = config("san", "DATALOADER.SKIP_BROKEN", str(wanted))
    assert build_train_loader(cfg).stream.skip_broken is wanted

"""The config: keys defined once, checked at start, with messages that name key, value and cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from twostage.config import all_keys, default_config, load_config
from twostage.config.finding import find_config
from twostage.errors import UserError

ROOT = Path(__file__).parents[2]
PUBLISHED = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if "base" not in p.parts)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_published_config_loads(path):
    load_config(str(path))


def test_san_recipe_is_the_published_one():
    cfg = load_config(str(ROOT / "configs" / "san_vitb.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (60000, 32, 1e-4)
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 0.01
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [int(0.1 * k * 640) for k in range(5, 16)]
    assert cfg.MODEL.CLIP.SPLIT_SYNONYMS is False


def test_large_inherits_and_overrides():
    cfg = load_config(str(ROOT / "configs" / "san_vitl.yaml"))
    assert cfg.MODEL.SAN.SPLIT_BLOCK == 18 and cfg.MODEL.SAN.CLIP_RESOLUTION == 0.7
    assert cfg.SOLVER.MAX_ITER == 60000


def test_unknown_key_names_its_neighbours():
    with pytest.raises(UserError, match=r"MODEL\.SAN\.NUM_QUERY.*MODEL\.SAN\.NUM_QUERIES"):
        load_config("", ["MODEL.SAN.NUM_QUERY", "5"])


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("VERSION: 2\nSOLVER:\n  OPTIMISER: SGD\n")
    with pytest.raises(UserError, match=r"mine\.yaml.*SOLVER\.OPTIMISER.*SOLVER\.OPTIMIZER"):
        load_config(str(path))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.OPTIMIZER", "ADAM", "'ADAMW'"),
        ("MODEL.CLIP.TEMPLATES", "vld", "'vild'"),
        ("SOLVER.EMA.DECAY", "1.5", "between 0 and 1"),
        ("MODEL.SAN.NUM_QUERIES", "0", "greater than 0"),
        ("MODEL.SAN.HEADS", "7", "MODEL.SAN.WIDTH"),
        ("MODEL.SAN.FUSION_MAP", "['0->0','12->1']", "SPLIT_BLOCK"),
        ("MODEL.SAN.AUXILIARY_BLOCKS", "[8]", "1 to 7"),
        ("SOLVER.MAX_ITER", "many", "type int"),
        ("TEST.SLIDING.STRIDE", "385", "TEST.SLIDING.TILE 384"),
        # Detectron2's own keys, which reach torch and numpy as they are.
        ("SOLVER.ADAMW_BETAS", "(0.9,)", "two numbers"),
        ("SOLVER.ADAMW_BETAS", "(0.9,1.5)", "below 1"),
        ("SOLVER.ADAMW_EPS", "-1", "0 or more"),
        ("SOLVER.CHECKPOINTS_KEPT", "-2", "0 or more"),
        ("SOLVER.MOMENTUM", "-1", "between 0 and 1"),
        ("SOLVER.POLY_LR_POWER", "-3", "0 or more"),
        ("SOLVER.WARMUP_METHOD", "nosuch", "'linear', 'constant'"),
        ("SOLVER.WEIGHT_DECAY", "-1", "0 or more"),
        ("TEST.EVAL_PERIOD", "-1", "0 or more"),
        ("TEST.AUG.ENABLED", "True", "no effect here"),
        ("SEED", "99999999999999", "at most"),
        ("DATALOADER.NUM_WORKERS", "-1", "0 or more"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "'TrainingSampler'"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "greater than 0"),
        ("INPUT.MIN_SIZE_TRAIN", "(320,0)", "greater than 0"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "needs two numbers"),
        ("INPUT.MIN_SIZE_TEST", "-5", "0 or more"),
        ("INPUT.MAX_SIZE_TEST", "0", "greater than 0"),
        ("INPUT.CROP.SIZE", "(32,)", "two numbers"),
        ("INPUT.CROP.TYPE", "nosuch", "'absolute'"),
        ("INPUT.RANDOM_FLIP", "sideways", "'horizontal', 'vertical', 'none'"),
        ("INPUT.PAD_VALUE", "900", "between 0 and 255"),
        # Detectron2's defaults make the short edge 800.
        ("INPUT.PAD_TO", "640", "INPUT.MIN_SIZE_TRAIN (800,) makes every picture larger"),
        ("DATASETS.TRAIN", "('a','b','a')", "names 'a' twice"),
        ("DATASETS.TEST", "('a','a')", "names 'a' twice"),
        ("MODEL.PIXEL_STD", "(0,1,1)", "above 0"),
        ("MODEL.MASK_LOSS.MASK_WEIGHT", "-1", "0 or more"),
        ("MODEL.MASK_LOSS.OVERSAMPLE_RATIO", "0.5", "at least 1"),
        ("MODEL.SWIN.HEADS", "(3,6,0,24)", "greater than 0"),
        ("MODEL.CATSEG.DECODER_CHANNELS", "(64,-1)", "greater than 0"),
        ("MODEL.SAN.IMAGE_SIZE", "0", "greater than 0"),
    ],
)
def test_bad_value_names_key_and_allowed(key, value, said):
    with pytest.raises(UserError) as error:
        load_config("", [key, value])
    assert key in str(error.value) and said in str(error.value)


def test_padding_less_than_the_crop_is_told():
    """A crop larger than what it is padded to contradicts it; pictures that only may be larger do not."""
    crop = ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", "(512,640)"]
    with pytest.raises(UserError, match=r"INPUT\.PAD_TO is 512 and INPUT\.CROP\.SIZE \(512, 640\)"):
        load_config("", [*crop, "INPUT.PAD_TO", "512"])
    assert load_config("", [*crop, "INPUT.PAD_TO", "640"]).INPUT.PAD_TO == 640
    assert load_config("", ["INPUT.MIN_SIZE_TRAIN", "(320,800)", "INPUT.PAD_TO", "640"]).INPUT.PAD_TO == 640


def test_whole_numbers_are_fine_where_floats_are_meant():
    assert load_config("", ["SOLVER.BASE_LR", "1"]).SOLVER.BASE_LR == 1.0


def test_odd_overrides_and_missing_file():
    with pytest.raises(UserError, match="has no value"):
        load_config("", ["SOLVER.BASE_LR"])
    with pytest.raises(UserError, match=r"san_vitb\.yaml"):
        load_config(str(ROOT / "configs" / "san_vit_b.yaml"))


def test_broken_yaml_is_one_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("MODEL: [1, 2\n")
    with pytest.raises(UserError) as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


def test_keys_are_defined_once():
    keys = all_keys(default_config())
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODEL:\n", "'MODEL' is a group of keys, not None"),
        ("MODEL:\n  CLIP: [1, 2]\n", r"'MODEL.CLIP' is a group of keys, not \[1, 2\]"),
        ("OUTPUT_DIR: 2024-01-01\n", "can't be read"),
        ("MODEL:\n  WEIGHTS: !!binary aGVsbG8=\n", "can't be read"),
        ("MODEL: !!set {a, b}\n", "can't be read"),
        ("SOLVER:\n  MAX_ITER: !!int ''\n", "can't be read"),
    ],
)
def test_values_that_no_config_holds(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_config(str(tmp_path / "odd.yaml"))
    assert len(str(error.value)) < 600


def test_a_config_that_there_is_not_is_answered_in_a_line():
    for name, said in (("nosuch", "no config 'nosuch'; `twostage systems`"), ("san_vitt", "did you mean 'san_vitl'")):
        with pytest.raises(UserError) as error:
            find_config(name)
        assert said in str(error.value) and len(str(error.value)) < 200

"""Cards: complete, cheap to read, and telling every official checkpoint apart."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from twostage.errors import UserError
from twostage.systems import cards
from twostage.systems.card import SystemCard
from twostage.systems.cards import all_cards

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_config_belongs_to_one_card() -> None:
    known = [name for card in all_cards() for name in card.configs]
    there = {str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml") if "base" not in p.parts}
    assert len(known) == len(set(known)) and set(known) == there


def test_reading_a_config_and_listing_cards_builds_nothing() -> None:
    code = (
        "import sys\nfrom twostage.config import load_config\nfrom twostage.systems.cards import all_cards\n"
        "load_config(sys.argv[1]); assert all_cards()\n"
        "ours = {m for m in sys.modules if m.startswith('twostage.') and m.endswith('.model')}\n"
        "print(','.join(sorted(ours | {'torch', 'timm', 'open_clip'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(CONFIGS / "san_vitb.yaml")], capture_output=True, text=True, check=True
    )
    from twostage.own_detectron2 import is_own

    # Upstream's config module imports torch by itself.
    assert done.stdout.strip() in (("",) if is_own() else ("", "torch"))


def card(name: str = "Mine") -> SystemCard:
    """A card of somebody else's system."""
    return SystemCard(
        name=name,
        paradigm="training-free",
        title="",
        venue="",
        paper="",
        code="",
        code_licence="",
        weights_licence="",
        meta_architecture="Mine",
        module="mine",
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tests_no_such_module:CARD", r"'mine' \(tests_no_such_module:CARD\) can't be loaded"),
        ("json:dumps", "is no SystemCard"),
    ],
)
def test_a_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    entry = EntryPoint(name="mine", value=value, group=cards.ENTRY_POINTS)
    monkeypatch.setattr(cards, "entry_points", lambda group: [entry])
    with pytest.raises(UserError, match=message):
        all_cards.__wrapped__()


def test_a_taken_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_installed_cards", lambda: [card("SAN")])
    with pytest.raises(
        UserError, match=r"two systems are called 'SAN' \(twostage\.systems\.two_stage\.san\.model and mine\)"
    ):
        all_cards.__wrapped__()


def test_every_checkpoint_can_be_asked_for() -> None:
    """By a name that is unique, from an address, for a config that the card has."""
    names = [checkpoint.name for c in all_cards() for checkpoint in c.checkpoints]
    assert len(names) == len(set(names)) > 40
    for c in all_cards():
        assert c.code_licence or c.name in ("SegCLIP", "SCLIP", "CLIP Surgery", "Talk2DINO", "CorrCLIP", "CLIP-DIY"), (
            "their repositories state none"
        )
        for checkpoint in c.checkpoints:
            assert checkpoint.source.startswith("https://") and checkpoint.train
            # A file of a variant without a config says how it is used.
            assert checkpoint.config in all_configs() if checkpoint.config else "fits" in checkpoint.note
        for signature in c.signatures.values():
            assert set(signature.configs) <= set(c.configs)
            assert signature.configs or c.configs


def all_configs() -> set[str]:
    return {config for c in all_cards() for config in c.configs}


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.META_ARCHITECTURE", "CatSeg"], r"is 'CatSeg' \(did you mean 'CATSeg'"),
        (["MODEL.META_ARCHITECTURE", "CAT-Seg"], r"is 'CAT-Seg' \(did you mean 'CATSeg'\?\)"),
        (["MODEL.META_ARCHITECTURE", "maskclip"], r"is 'maskclip' \(did you mean 'TrainingFree'\?\)"),
        (
            ["MODEL.BACKBONE.NAME", "ResNet"],
            r"MODEL\.BACKBONE\.NAME is 'ResNet'; allowed: .*\(did you mean 'resnet'\?\)",
        ),
        (["SOLVER.LR_SCHEDULER_NAME", "PolyLR"], r"did you mean 'WarmupPolyLR'"),
        (["SOLVER.OPTIMIZER", "adamw"], r"did you mean 'ADAMW'"),
        (["MODEL.CLIP.TEMPLATES", "imagenets"], r"did you mean 'imagenet'"),
        (["MODEL.MASKCLIP_PLUS.HEAD", "deeplabv3+"], r"did you mean .*'deeplabv3plus'"),
        (["MODEL.TRAINING_FREE.METHOD", "scilp"], r"did you mean 'sclip'"),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_values_that_are_looked_up_have_near_names(opts: list[str], message: str) -> None:
    from twostage.config import load_config

    with pytest.raises(UserError, match=message):
        load_config("", opts)

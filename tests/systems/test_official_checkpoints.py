"""Every official key list against every system: loaded by its own, refused by all others with the way out."""

from __future__ import annotations

import functools
import json
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from twostage.api import find_config
from twostage.checkpoint.checkpointer import Checkpointer, load_weights
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.cards import all_cards, recognise_checkpoint
from twostage.systems.training_free.dense_clip.weights import maskclip_table

TOY_CONFIGS = {f"toybox/{path.stem}" for path in (Path(__file__).parents[2] / "configs" / "toybox").glob("*.yaml")}

# Key list -> what messages call it, and a config that it fits.
OFFICIAL = {
    "san/keys-base": ("SAN", "san_vitb"),
    "san/keys-large": ("SAN", "san_vitl"),
    "ovseg/keys-base": ("OVSeg", "ovseg_r101c_vitb"),
    "ovseg/keys-large": ("OVSeg", "ovseg_swinb_vitl"),
    "scan/keys-vitb": ("SCAN", "scan_vitb"),
    "scan/keys-vitl": ("SCAN", "scan_vitl"),
    "fcclip/keys-convnext-large": ("FC-CLIP", "fcclip_convnextl"),
    "fcclip/keys-r50": ("FC-CLIP", "fcclip_r50"),
    "maftp/keys-b-semantic": ("MAFT+", "maftp_convnextb"),
    "maftp/keys-l-semantic": ("MAFT+", "maftp_convnextl"),
    "maftp/keys-l-panoptic": ("MAFT+", "maftp_convnextl_panoptic"),
    "maskadapter/keys-fcclip-l": ("Mask-Adapter (FC-CLIP)", "mask_adapter_fcclip_convnextl"),
    "maskadapter/keys-maftp-b": ("Mask-Adapter (MAFT+)", "mask_adapter_maftp_convnextb"),
    "maskadapter/keys-maftp-l": ("Mask-Adapter (MAFT+)", "mask_adapter_maftp_convnextl"),
    "maskadapter/keys-warmup-fcclip-l": ("Mask-Adapter (warm-up on FC-CLIP)", "mask_adapter_warmup_fcclip_convnextl"),
    "maskadapter/keys-warmup-maftp-b": ("Mask-Adapter (warm-up on MAFT+)", "mask_adapter_warmup_maftp_convnextb"),
    "maskadapter/keys-warmup-maftp-l": ("Mask-Adapter (warm-up on MAFT+)", "mask_adapter_warmup_maftp_convnextl"),
    "mask2former/keys-r50-ade": ("Mask2Former", "mask2former_r50"),
    "mask2former/keys-r101-ade": ("Mask2Former", "mask2former_r101"),
    "mask2former/keys-swint-ade": ("Mask2Former", "mask2former_swint"),
    "mask2former/keys-swinb-ade": ("Mask2Former", "mask2former_swinb"),
    "mask2former/keys-swinl-ade": ("Mask2Former", "mask2former_swinl"),
    "mask2former/keys-r50-coco": ("Mask2Former", "mask2former_r50_coco"),
    "mask2former/keys-swinb-coco": ("Mask2Former", "mask2former_swinb_coco"),
    "catseg/keys-b": ("CAT-Seg (v2)", "catseg_vitb"),
    "catseg/keys-l": ("CAT-Seg (v2)", "catseg_vitl"),
    "catseg/keys-v1-r101": ("CAT-Seg (v1)", "catseg_v1_vitb_r101"),
    "catseg/keys-v1-swinb": ("CAT-Seg (v1)", "catseg_v1_vitl_swinb"),
    "sed/keys-base": ("SED", "sed_convnextb"),
    "sed/keys-large": ("SED", "sed_convnextl"),
    "pcaseg/keys-b": ("PCA-Seg (OpenAI)", "pcaseg_vitb"),
    "pcaseg/keys-l": ("PCA-Seg (OpenAI)", "pcaseg_vitl"),
    "pcaseg/keys-eva-b": ("PCA-Seg (EVA02)", "pcaseg_eva_vitb"),
    "pcaseg/keys-eva-l": ("PCA-Seg (EVA02)", "pcaseg_eva_vitl"),
    "errseg/keys-b": ("ERR-Seg", "errseg_convnextb"),
    "errseg/keys-l": ("ERR-Seg", "errseg_convnextl"),
    "segclip/keys-vitb16": ("SegCLIP", "segclip_vitb"),
    "trainingfree/keys-clip-vit-b-16": ("CLIP", "clip_vitb"),
    "trainingfree/keys-clip-rn50": ("CLIP", "maskclip_r50"),
    "trainingfree/keys-maskclip-vit16-voc20": ("MaskCLIP (ViT)", "maskclip_vitb"),
    "trainingfree/keys-maskclip-r50-voc20": ("MaskCLIP (ResNet)", "maskclip_r50"),
    "trainingfree/keys-maskclip-r50x16-voc20": ("MaskCLIP (ResNet)", "maskclip_r50x16"),
    "trainingfree/keys-maskclipplus-r50-voc20": ("MaskCLIP+", "maskclip_plus/r50_voc20"),
    "trainingfree/keys-maskclipplus-r50x16-voc20": ("MaskCLIP+", "maskclip_plus/r50x16_voc20"),
    "trainingfree/keys-maskclipplus-vit16-context59": ("MaskCLIP+", "maskclip_plus/vitb_context59"),
    "trainingfree/keys-maskclipplus-zeroshot-r50-voc21": ("MaskCLIP+", "maskclip_plus/zeroshot_r50_voc21"),
    "trainingfree/keys-maskclipplus-zeroshot-r50-context60-deeplabv3plus": (
        "MaskCLIP+",
        "maskclip_plus/zeroshot_r50_context60",
    ),
    "proxy/keys-dino-vit-b-8": ("ProxyCLIP (DINO)", "proxyclip_dino"),
    "proxy/keys-sam-vit-b": ("Trident (SAM)", "trident"),
    "proxy/keys-dinoiser-head": ("CLIP-DINOiser", "clip_dinoiser"),
    "proxy/keys-talk2dino-vitb-proj": ("Talk2DINO", "talk2dino_vitb"),
    "proxy/keys-dinov2-vit-b-14-reg": ("ProxyCLIP (DINOv2)", "proxyclip_dinov2"),
}
# One config at toy size for each meta-architecture.
TOYS = tuple({c.meta_architecture: name for c in all_cards() for name in c.configs if name in TOY_CONFIGS}.values())


def build(config: str, *opts: str) -> nn.Module:
    defaults = ["MODEL.CLIP.PRETRAINED", "", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.DEVICE", "cpu"]
    defaults += ["MODEL.ODISE.DIFFUSION.PRETRAINED", ""]
    return build_model(load_config(find_config(config), [*defaults, *opts]))


@functools.cache
def toy(name: str) -> nn.Module:
    """A random model at toy size, of which only names matter."""
    return build(name)


def official(reference: Path, name: str) -> dict[str, Tensor]:
    """The key list as tensors of zeros, a number of memory each."""
    keys = json.loads((reference / f"{name}.json").read_text())
    dtypes = {name: getattr(torch, entry["dtype"]) for name, entry in keys.items()}
    return {name: torch.zeros((), dtype=dtypes[name]).expand(entry["shape"]) for name, entry in keys.items()}


def card_name(label: str) -> str:
    return label.partition(" (")[0]


def test_every_key_list_is_tried(reference: Path) -> None:
    lists = {
        f"{path.parent.name}/{path.stem}"
        for path in reference.glob("*/keys-*.json")
        if recognise_checkpoint(json.loads(path.read_text())) is not None and path.parent.name != "odise"
    }
    # ODISE's files hold what is trained alone (tests/systems/test_odise_weights.py).
    # CLIP ViT-L/14 and DINO ViT-B/16 fit no config of ours as they stand.
    assert lists - {"trainingfree/keys-clip-vit-l-14", "proxy/keys-dino-vit-b-16"} == set(OFFICIAL)
    # GroupViT has no toy config; its files are tried in tests/systems/test_groupvit.py.
    architectures = {c.meta_architecture for c in all_cards()} - {"GroupViT"}
    assert sorted(type(toy(name)).__name__ for name in TOYS) == sorted(architectures)


@pytest.mark.parametrize("name", OFFICIAL)
def test_it_has_one_owner(reference: Path, name: str) -> None:
    names = list(official(reference, name))
    label, _ = OFFICIAL[name]
    owners = [(c.name, variant) for c in all_cards() for variant, s in c.signatures.items() if s.matches(names)]
    assert [f"{owner} ({variant})" if variant else owner for owner, variant in owners] == [label]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*a no-op")  # torch on loading into a model without memory
@pytest.mark.parametrize("name", OFFICIAL)
def test_it_loads_into_its_own_system(
    reference: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size, every name and shape; on a device without memory, so that building costs next to nothing."""
    label, config = OFFICIAL[name]
    if "-sam-" in name:
        pytest.importorskip("transformers", reason="needs the extra 'sam'")
    # open_clip moves its models to the CPU, where these can't go.
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    with torch.device("meta"):
        model = build(config, "MODEL.DEVICE", "meta", "MODEL.WEIGHTS", "official.pth")
    if hasattr(model, "read_clip"):
        model.read_clip = lambda _: {f"clip.{key}": value for key, value in model.clip.state_dict().items()}
    tensors = official(reference, name)
    with caplog.at_level(logging.INFO, "twostage"):
        load_weights(model, {"model": tensors}, "official.pth")
    assert f"is an official {card_name(label)}" in caplog.text and f"{len(tensors)} tensors" in caplog.text


@pytest.mark.parametrize("name", OFFICIAL)
def test_all_others_say_whose_it_is(reference: Path, name: str) -> None:
    label, config = OFFICIAL[name]
    (owner,) = (card for card in all_cards() if card.name == card_name(label))
    others = [model for model in map(toy, TOYS) if type(model).__name__ != owner.meta_architecture]
    assert len(others) == len(TOYS) - 1
    for model in others:
        with pytest.raises(UserError) as caught:
            load_weights(model, {"model": official(reference, name)}, "official.pth")
        wanted = f"checkpoint 'official.pth' is one of {label}, but the config builds {type(model).__name__}; use a config of"
        assert str(caught.value).startswith(wanted)
        # The configs that it names are the right system's, and the one that fits is not beside the point.
        configs = str(caught.value).partition(f"{owner.name}: ")[2].split(", ")
        assert all(Path(find_config(named)).is_file() and named in owner.configs for named in configs)
        signature = owner.signatures[label.partition("(")[2].rstrip(")")]
        assert config in (signature.configs or owner.configs) or owner.name == "CLIP"


@pytest.mark.parametrize(
    ("name", "model", "configs"),
    [
        ("catseg/keys-v1-r101", "toybox/catseg", "catseg_v1_vitb_r101, catseg_v1_vitl_swinb"),
        ("trainingfree/keys-maskclip-r50-voc20", "toybox/maskclip", "maskclip_r50, maskclip_r50x16"),
    ],
)
def test_another_variant_of_the_same_system_is_named(reference: Path, name: str, model: str, configs: str) -> None:
    label, _ = OFFICIAL[name]
    meant = f"is one of {label}, but the config builds another {type(toy(model)).__name__}; use a config of "
    with pytest.raises(UserError, match=f"{re.escape(meant)}.*: {configs}$"):
        load_weights(toy(model), official(reference, name), "official.pth")


def test_maskclip_takes_its_text_tower_from_clip() -> None:
    """Its checkpoint holds the image tower and one class list's embeddings, which are no use for other words."""
    source = build("toybox/maskclip", "MODEL.CLIP.PRETRAINED", "toybox")
    table = maskclip_table(resnet=False)
    state = {name: value + 1 if "visual" in name else value for name, value in source.state_dict().items()}
    tensors = table.to_official(state) | {"decode_head.text_embeddings": torch.zeros(3, 128)}
    assert not any(torch.equal(value, torch.zeros(())) for value in tensors.values())
    # As when MODEL.WEIGHTS is given: CLIP's own weights are not read while the model is built.
    model = build("toybox/maskclip", "MODEL.CLIP.PRETRAINED", "toybox", "MODEL.WEIGHTS", "maskclip.pth")
    assert not torch.equal(model.clip.text_projection, source.clip.text_projection)
    load_weights(model, {"state_dict": tensors}, "maskclip.pth")
    loaded = model.state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize("config", ["toybox/maskclip", "toybox/maskclip_plus"])
def test_a_random_text_tower_is_refused(config: str) -> None:
    network = ["MODEL.MASKCLIP_PLUS.BACKBONE", "resnet50c", "MODEL.MASKCLIP_PLUS.CLIP_WEIGHTS", ""]
    model = build(config, "MODEL.WEIGHTS", "official.pth", *network)
    table = model.checkpoint_tables()[-1]
    tensors = table.to_official(model.state_dict()) | {"decode_head.text_embeddings": torch.zeros(3, 128)}
    with pytest.raises(UserError, match=r"'official\.pth' holds CLIP's image tower without its text tower.*'openai'"):
        load_weights(model, tensors, "official.pth")


def test_our_checkpoints_say_who_wrote_them(tmp_path: Path) -> None:
    Checkpointer(toy("toybox/catseg"), str(tmp_path)).save("mine", iteration=3)
    with pytest.raises(UserError) as caught:
        Checkpointer(toy("toybox/sed")).load(str(tmp_path / "mine.pth"))
    assert str(caught.value).endswith(
        "mine.pth' was written by CAT-Seg (MODEL.META_ARCHITECTURE CATSeg), but the config builds SED; use the config it was "
        "trained with, such as catseg_vitb, catseg_vitl, catseg_v1_vitb_r101, catseg_v1_vitl_swinb"
    )
    assert Checkpointer(toy("toybox/catseg")).load(str(tmp_path / "mine.pth")) == {"iteration": 3}
    content = torch.load(tmp_path / "mine.pth", weights_only=True)
    # Files from before this was written still load; a system that is gone is named all the same.
    load_weights(toy("toybox/catseg"), {"model": content["model"]}, "old.pth")
    with pytest.raises(UserError, match=r"written by Gone \(MODEL\.META_ARCHITECTURE Gone\).*; install that system"):
        load_weights(toy("toybox/catseg"), content | {"meta_architecture": "Gone"}, "other.pth")

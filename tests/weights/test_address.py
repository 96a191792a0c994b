"""What may stand for a weights file, taken apart."""

from __future__ import annotations

import pytest

from twostage.errors import UserError
from twostage.systems.cards import all_cards
from twostage.weights.address import drive_id, hub_file, parse_address
from twostage.weights.hub import hub_url
from twostage.weights.names import address_of, official_weights, published


@pytest.mark.parametrize(
    "text",
    [
        "hf://spaces/hamacojr/CAT-Seg-weights/model_base.pth",
        "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_base.pth",
        "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights/blob/main/model_base.pth?download=true",
    ],
)
def test_spellings_of_a_hub_file(text: str) -> None:
    file = hub_file(text)
    assert (file.kind, file.repository, file.revision, file.file) == (
        "space",
        "hamacojr/CAT-Seg-weights",
        "main",
        "model_base.pth",
    )
    address = parse_address(text)
    assert str(address.place) == "huggingface.co/spaces/hamacojr/CAT-Seg-weights/main/model_base.pth"
    assert hub_url(file).endswith("/spaces/hamacojr/CAT-Seg-weights/resolve/main/model_base.pth")


def test_a_revision_and_folders() -> None:
    file = hub_file("hf://owner/name@v1/deep/er/file.bin")
    assert (file.revision, file.file) == ("v1", "deep/er/file.bin")
    assert parse_address("hf://owner/name@v1/f.bin").place != parse_address("hf://owner/name/f.bin").place


@pytest.mark.parametrize(
    "text",
    [
        "https://drive.google.com/file/d/1cn-ohxg_X/view?usp=sharing",
        "https://drive.google.com/file/u/0/d/1cn-ohxg_X/edit",
        "https://drive.google.com/uc?export=download&id=1cn-ohxg_X",
        "https://drive.google.com/open?id=1cn-ohxg_X",
    ],
)
def test_spellings_of_a_drive_file(text: str) -> None:
    assert drive_id(text) == "1cn-ohxg_X"
    assert parse_address(f"{text}#a.safetensors").place.name == "a.safetensors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://owner/name", "names no file of the Hub"),
        ("hf://", "names no file of the Hub"),
        ("https://huggingface.co/owner/name", "names no file of the Hub"),
        ("https://drive.google.com/drive/folders/1obgH", "names no file of Google Drive"),
        ("http://example.org/a.pth", "can be changed by anybody"),
        ("https://example.org/", "no address of a file"),
        ("https:///a.pth", "no address of a file"),
        ("https://example.org/%2e%2e/%2e%2e/a.pth", "can't be a file's name here"),
        ("hf://owner/name/../../../../etc/passwd", "can't be a file's name here"),
        ("https://example.org/.bashrc", "can't be a file's name here"),
        ("https://example.org/a%00b.pth", "can't be a file's name here"),
        ("https://drive.google.com/uc?id=1&x=2#../../a", "can't be a file's name here"),
    ],
)
def test_no_address(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_address(text)


def test_other_parameters_are_another_file() -> None:
    one, other = (parse_address(f"https://example.org/get/a.pth?v={v}").place for v in (1, 2))
    assert one != other and one.name == other.name == "a.pth"


def test_every_published_checkpoint_has_a_place_of_its_own() -> None:
    addresses = [address_of(*found) for found in published()]
    assert len({str(address.place).lower() for address in addresses}) == len(addresses) > 40
    # The only sources that nothing can follow by itself.
    by_hand = {card.name for card, checkpoint in published() if checkpoint.by_hand}
    assert by_hand == {"ERR-Seg", "GroupViT", "MAFT+", "Mask-Adapter", "MaskCLIP+", "SCAN"}


def test_openais_addresses_say_what_their_files_are() -> None:
    found = [address_of(*f) for f in published() if "openaipublic" in f[1].source]
    assert len(found) == 4 and all(len(address.sha256) == 64 for address in found)


def test_official() -> None:
    assert official_weights("/anywhere/configs/san_vitl.yaml") == "san_vit_large_14.pth"
    assert official_weights("ovseg_demo") == official_weights("ovseg_swinb_vitl") == "ovseg_swinbase_vitL14_ft_mpt.pth"
    assert official_weights("scan_vitb") == "SCAN-vitB.pth"
    assert official_weights("training_free/naclip_voc20") == ""
    with pytest.raises(
        UserError, match=r"nothing was published for the config 'toybox/san'; checkpoints of SAN: san_vit_b"
    ):
        official_weights("configs/toybox/san.yaml")
    with pytest.raises(UserError, match=r"'mine\.yaml' is no published config"):
        official_weights("mine.yaml")


def test_what_has_no_official_checkpoint() -> None:
    """Toybox, what the authors kept, and nothing else."""
    without = set()
    for card in all_cards():
        for config in card.configs:
            try:
                official_weights(config)
            except UserError:
                without.add(config)
    assert without - {config for config in without if config.startswith("toybox/")} == {
        "maskclip_plus/vitb_voc20",
        "maskclip_plus/zeroshot_r50_voc21",
        "mask_adapter_maftp_convnextb",
        "mask_adapter_warmup_fcclip_convnextl",
        "mask_adapter_warmup_maftp_convnextb",
        "mask_adapter_warmup_maftp_convnextl",
        "pcaseg_eva_vitb",
        "pcaseg_eva_vitl",
        "pcaseg_vitb",
        "pcaseg_vitl",
        "zsseg_r50_vitb",
    }

"""Masks from anywhere: each source on small pictures, and a region classifier that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from twostage.api import find_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.systems.building import build_model
from twostage.systems.mask_sources.building import mask_source_from_config
from twostage.systems.mask_sources.contract import stacked_masks
from twostage.systems.mask_sources.of_transformers import TransformersMasks
from twostage.vocabulary import Vocabulary

QUIET = ("MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", "")


def config(*opts: str, name: str = "corrclip"):
    return load_config(find_config(f"toybox/{name}"), [*QUIET, *opts])


def halves(height: int = 40, width: int = 60) -> torch.Tensor:
    """A picture whose left half is red, its right half blue."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[0, :, : width // 2], picture[2, :, width // 2 :] = 255, 255
    return picture


@pytest.mark.parametrize("kind", ["felzenszwalb", "slic"])
def test_superpixels_keep_to_edges(kind: str) -> None:
    source = mask_source_from_config(config("MODEL.MASKS.SUPERPIXELS", kind, "MODEL.MASKS.SIGMA", "0.0"))
    labels = source(halves(), None)
    left, right = labels[:, :30].unique(), labels[:, 30:].unique()
    assert labels.dtype == torch.int64 and int(labels.min()) == 1
    assert not set(left.tolist()) & set(right.tolist())


def test_a_picture_of_one_colour_is_one_superpixel() -> None:
    source = mask_source_from_config(config())
    assert source(torch.zeros(3, 20, 30, dtype=torch.uint8), None).unique().tolist() == [1]


def test_masks_lie_in_a_folder(tmp_path: Path) -> None:
    labels = np.zeros((40, 60), np.uint16)
    labels[:, 30:] = 700
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", instance_mask=labels.astype(np.int32))
    np.savez(tmp_path / "c.npz", other=labels)
    np.savez(tmp_path / "e.npz", instance_mask=labels - np.ones((), np.int32))
    np.savez(tmp_path / "f.npz", instance_mask=labels + 0.5)
    np.savez(tmp_path / "g.npz", instance_mask=np.stack([labels, labels]))
    with (tmp_path / "h.npz").open("wb") as file:
        np.save(file, labels)
    source = mask_source_from_config(config("MODEL.MASKS.SOURCE", "folder", "MODEL.MASKS.FOLDER", str(tmp_path)))
    for name in ("elsewhere/a.jpg", "b.jpg"):
        assert source(halves(), name).unique().tolist() == [0, 700]
    for picture, name, message in (
        (halves(), "d.jpg", r"has no masks of 'd\.jpg' \(d\.png or d\.npz\)"),
        (halves(), "e.jpg", r"e\.npz' holds int.* of shape \(40, 60\); .* 0 in no mask"),
        (halves(), "f.jpg", r"holds float64"),
        (halves(), "g.jpg", r"of shape \(2, 40, 60\)"),
        (halves(), "h.jpg", r"h\.npz' can't be read"),
        (halves(), "c.jpg", r"c\.npz' can't be read.*must hold 'instance_mask'"),
        (halves(41), "a.jpg", r"are 40x60 \(height x width\), the picture is 41x60"),
        (halves(), None, r"finds masks by the picture's file name"),
    ):
        with pytest.raises(UserError, match=message):
            source(picture, name)
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.FOLDER is '.*no', which is no folder"):
        mask_source_from_config(config("MODEL.MASKS.SOURCE", "folder", "MODEL.MASKS.FOLDER", str(tmp_path / "no")))


def test_masks_of_a_system_of_ours(tmp_path: Path) -> None:
    opts = ("MODEL.MASKS.SOURCE", "system", "MODEL.MASKS.CONFIG")
    source = mask_source_from_config(config(*opts, "toybox/mask2former_agnostic"))
    labels = source(halves(), None)
    assert labels.shape == (40, 60) and labels.dtype == torch.int64
    # Its masks lie one level deeper.
    odise = mask_source_from_config(config(*opts, "toybox/odise"))
    assert odise(halves(), None).shape == (40, 60)
    chain = tmp_path / "chain.yaml"
    chain.write_text(
        f"_BASE_: {find_config('toybox/corrclip')}\nMODEL: {{MASKS: {{SOURCE: system, CONFIG: {chain}}}}}\n"
    )
    with pytest.raises(UserError, match=r"chain\.yaml' takes its masks from yet another system"):
        mask_source_from_config(config(*opts, str(chain)))
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.CONFIG: .*mask2formr"):
        mask_source_from_config(config(*opts, "toybox/mask2formr"))
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.CONFIG is of TrainingFree, which makes no masks"):
        mask_source_from_config(config(*opts, "toybox/maskclip"))(halves(), None)


class Found:
    """Stands in for a panoptic model of transformers and its processor."""

    def __init__(self, segmentation: torch.Tensor, numbers: list[int]) -> None:
        self.result = {"segmentation": segmentation, "segments_info": [{"id": n} for n in numbers]}

    def eval(self) -> Found:
        return self

    def parameters(self):
        return iter([torch.zeros(1)])

    def __call__(self, **_kwargs):
        return self if "images" not in _kwargs else {"pixel_values": torch.zeros(1)}

    def post_process_panoptic_segmentation(self, _outputs, target_sizes):
        assert target_sizes == [(2, 3)]
        return [self.result]


def test_segments_of_transformers_are_numbered_from_one() -> None:
    """Mask2Former's gaps are 0 and it counts from 1; EoMT's are -1 and it counts from 0."""
    picture = torch.zeros(3, 2, 3, dtype=torch.uint8)
    for segmentation, numbers, wanted in (
        ([[0, 1, 1], [2, 2, 0]], [1, 2], [[0, 1, 1], [2, 2, 0]]),
        ([[-1, 0, 0], [4, 4, -1]], [0, 4], [[0, 1, 1], [2, 2, 0]]),
        ([[-1, -1, -1]] * 2, [], [[0, 0, 0]] * 2),
    ):
        found = Found(torch.tensor(segmentation), numbers)
        assert TransformersMasks(found, found)(picture, None).tolist() == wanted


def test_a_folder_of_transformers_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    model = library.EomtForUniversalSegmentation(
        library.EomtConfig(**small, num_blocks=1, num_queries=5, num_upscale_blocks=1, num_register_tokens=1)
    )
    processor = library.EomtImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 64}, do_split_image=False, do_pad=True
    )
    model.save_pretrained(tmp_path / "eomt")
    processor.save_pretrained(tmp_path / "eomt")
    opts = ("MODEL.MASKS.SOURCE", "transformers", "MODEL.MASKS.MODEL")
    labels = mask_source_from_config(config(*opts, str(tmp_path / "eomt")))(halves(), None)
    assert labels.shape == (40, 60) and labels.dtype == torch.int64 and int(labels.min()) >= 0
    library.ViTModel(library.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path / "vit"
    )
    with pytest.raises(UserError, match=r"is a 'vit'; allowed are mask2former and eomt"):
        mask_source_from_config(config(*opts, str(tmp_path / "vit")))
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.MODEL '.*none' can't be read"):
        mask_source_from_config(config(*opts, str(tmp_path / "none")))


@torch.no_grad()
def test_a_mask2former_of_transformers_is_read(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    swin = library.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    small = library.Mask2FormerConfig(
        backbone_config=swin, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=6, num_attention_heads=2,
        encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=32, dim_feedforward=32, num_labels=5,
    )  # fmt: skip
    model = library.Mask2FormerForUniversalSegmentation(small)
    # At random no query is sure of a class; this one says the first, whatever it sees.
    model.class_predictor.bias.copy_(torch.tensor([20.0, 0, 0, 0, 0, 0]))
    model.save_pretrained(tmp_path)
    library.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    opts = ("MODEL.MASKS.SOURCE", "transformers", "MODEL.MASKS.MODEL", str(tmp_path))
    labels = mask_source_from_config(config(*opts))(halves(), None)
    assert labels.shape == (40, 60) and labels.dtype == torch.int64 and int(labels.max()) >= 1


def test_label_maps_become_masks_of_the_batch() -> None:
    first, second = torch.tensor([[0, 3], [5, 5]]), torch.tensor([[7, 7, 7, 7]] * 4)
    masks = stacked_masks([first, second], [(4, 4), (4, 4)], (6, 5))
    assert masks.shape == (2, 2, 6, 5)
    assert masks[0, 0].nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]
    assert int(masks[0, 1].sum()) == 8 and int(masks[1, 0].sum()) == 16 and not masks[1, 1].any()
    assert not stacked_masks([torch.zeros(2, 2, dtype=torch.int64)], [(2, 2)], (2, 2)).any()


@pytest.mark.parametrize(
    ("name", "regions"),
    [
        *(("ovseg_superpixels", regions) for regions in ("crop", "mask_pool", "attention_bias")),
        *(("ovseg_adapter", regions) for regions in ("mask_pool", "mask_adapter")),
    ],
)
@torch.no_grad()
def test_a_region_classifier_names_masks_from_elsewhere(name: str, regions: str) -> None:
    torch.manual_seed(0)
    model = build_model(config("MODEL.OVSEG.REGIONS", regions, name=name)).eval()
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[:, :25], labels[10:30, 35:] = 4, 9
    model.masks = lambda _picture, _name: labels
    entry = {"image": halves(80, 120), "original": halves(), "height": 40, "width": 60}
    encoded = model.encode(model.preprocess([entry]))
    assert encoded.outputs[0][0].shape[1] == 2 and encoded.regions.valid.all()
    text = model.embed_vocabulary(Vocabulary.from_words(["sky", "grass", "cat"]))
    scores = model.decode(encoded, text).scores([(40, 60)])[0]
    clip = model.classifier(text.text).classes(encoded.regions.embeddings)[0].softmax(dim=-1)
    # Away from edges a pixel has its mask's classes; pixels in no mask have none.
    torch.testing.assert_close(scores[:, 20, 10], clip[0])
    torch.testing.assert_close(scores[:, 20, 50], clip[1])
    assert float(scores[:, 35, 50].max()) < 1e-6
    # The generator has no say.
    model.ensemble_weight = 0.3
    torch.testing.assert_close(model.decode(encoded, text).scores([(40, 60)])[0], scores)


def test_a_tower_that_the_classifier_does_not_know_is_told() -> None:
    with pytest.raises(UserError, match="OVSeg needs a CLIP with a plain ViT image tower"):
        build_model(config("MODEL.OVSEG.REGIONS", "attention_bias", name="ovseg_adapter"))
    with pytest.raises(UserError, match=r"MODEL\.OVSEG\.REGIONS 'mask_adapter' needs a CLIP with a ConvNeXt"):
        build_model(config("MODEL.OVSEG.REGIONS", "mask_adapter", name="ovseg_superpixels"))


def test_masks_from_elsewhere_need_clip_and_train_nothing() -> None:
    with pytest.raises(UserError, match=r"MODEL\.MASKS\.SOURCE is 'superpixels', whose masks only CLIP can name"):
        config("MODEL.OVSEG.ENSEMBLE", "False", name="ovseg_superpixels")
    model = build_model(config(name="ovseg_superpixels")).train()
    with pytest.raises(UserError, match="named by CLIP alone and train nothing"):
        model.encode(model.preprocess([{"image": halves()}]))


@torch.no_grad()
def test_pixels_in_no_mask_are_none_of_the_words() -> None:
    """Asked without contrast words and with them; a picture without any mask as well. Evaluation still names every pixel."""
    torch.manual_seed(0)
    model = build_model(config(name="ovseg_superpixels")).eval()
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[:, :25], labels[:, 25:30] = 4, 9
    asked = Vocabulary.from_words(["sky", "grass", "cat"])
    entry = {"image": halves(80, 120), "original": halves(), "height": 40, "width": 60}
    for masks, covered in ((labels, 30), (torch.zeros_like(labels), 0)):
        model.masks = lambda _picture, _name, masks=masks: masks
        encoded = model.encode(model.preprocess([entry]))
        (alone,) = model.answer(encoded, asked).label_maps([(40, 60)])
        assert (alone[:, covered:] == -1).all() and (alone[:, :covered] >= 0).all()
        (among,) = model.answer(encoded, asked, ("star",)).label_maps([(40, 60)])
        assert (among[:, covered:] == -1).all()
        (named,) = model([{**entry, "vocabulary": asked}])
        assert (named["sem_seg_labels"] >= 0).all()
        assert torch.equal(named["sem_seg_labels"][:, :covered], alone[:, :covered])
        # As docs/masks.md says: the class with the most weight in all masks, and the first without any.
        weights = model.decode(encoded, model.embed_vocabulary(asked)).class_probabilities[0].sum(dim=0)
        assert (named["sem_seg_labels"][:, covered:] == int(weights.argmax())).all()
        assert covered or not weights.any()
    # Masks that leave nothing out leave nothing unlabelled, on borders between three of them either, at any size.
    whole = torch.ones(40, 60, dtype=torch.int64)
    whole[20:, :33], whole[20:, 33:] = 2, 3
    model.masks = lambda _picture, _name: whole
    (found,) = model.answer(model.encode(model.preprocess([entry])), asked).label_maps([(57, 91)])
    assert (found >= 0).all()

"""Trident: windows spliced, features mixed by SAM's attention, labels sharpened by what SAM answers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twostage.api import find_config
from twostage.config import load_config
from twostage.errors import UserError
from twostage.inference.mosaic import Mosaic
from twostage.inference.sliding import TileGrid
from twostage.systems.building import build_model
from twostage.systems.training_free.dense_clip.prediction import ImageMaps, LabelRule, NamePrediction
from twostage.systems.training_free.trident.aggregation import aggregate, limited, row_thresholds
from twostage.systems.training_free.trident.prediction import ClassProbabilities, RefinedPrediction
from twostage.systems.training_free.trident.prompts import PromptRule, connected_regions
from twostage.systems.training_free.trident.refinement import Answer, coarse_labels
from twostage.systems.training_free.trident.splicing import aligned_size, splice
from twostage.vocabulary import Vocabulary

SIZE = (24, 32)


def build(*opts: str):
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.CLIP.TEXT_CACHE", "", "MODEL.CLIP.PRETRAINED", ""]
    overrides += ["TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.TILE", "64", "TEST.SLIDING.STRIDE", "32"]
    torch.manual_seed(0)
    return build_model(load_config(find_config("toybox/trident"), [*overrides, *opts])).eval()


def test_pictures_are_stretched_to_whole_patches_unless_they_fit() -> None:
    assert aligned_size((340, 680), 16, 336) == (352, 688)
    assert aligned_size((448, 597), 16, 336) == (464, 608)
    assert aligned_size((100, 170), 16, 336) == (336, 336)
    assert aligned_size((160, 224), 16, 336) == (160, 224)


def test_overlapping_windows_are_averaged() -> None:
    whole = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))
    windows = torch.stack([whole[:, :, :4], whole[:, :, 2:]])
    torch.testing.assert_close(splice(windows, [(0, 0), (0, 2)], (5, 6), grid=(5, 4)), whole)
    windows[1] += 2
    spliced = splice(windows, [(0, 0), (0, 2)], (5, 6), grid=(5, 4))
    torch.testing.assert_close(spliced - whole, torch.tensor([0.0, 0, 1, 1, 2, 2]).expand_as(whole))


@pytest.mark.parametrize(("factor", "keeps_negative"), [(1.2, True), (3.0, False)])
def test_aggregation_is_the_written_out_matrix(factor: float, keeps_negative: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 9, 4, 5, generator=generator) + 0.5
    attention = torch.randn(2, 36, 36, generator=generator).softmax(dim=-1)
    maps = torch.randn(3, 9, 4, generator=generator)
    unit = F.normalize(values.flatten(1, 2), dim=-1)
    cosines = unit @ unit.transpose(1, 2)
    thresholds = factor * cosines.mean(dim=0).mean(dim=1)
    torch.testing.assert_close(row_thresholds(cosines, factor), thresholds)
    wanted = torch.zeros(36, 36)
    for i in range(36):
        least = float(thresholds[i])
        least = 0.6 if least < 0 and not keeps_negative else least
        wanted[i] = (attention[:, i] * (cosines[:, i] > min(least, 0.9))).mean(dim=0)
    wanted = wanted / wanted.sum(dim=1, keepdim=True)
    mixed = aggregate(
        maps,
        values,
        lambda head, rows: attention[head].unflatten(0, (9, 4))[rows].flatten(0, 1),
        factor=factor,
        keeps_negative=keeps_negative,
    )
    torch.testing.assert_close(mixed.flatten(1).T, wanted @ maps.flatten(1).T)
    assert limited(torch.tensor([-0.1, 0.95]), keeps_negative=True).tolist() == pytest.approx([-0.1, 0.9])


def test_regions_are_eight_connected_and_in_raster_order() -> None:
    member = torch.zeros(6, 8, dtype=torch.bool)
    member[0, 5], member[1, 6], member[0, 0] = True, True, True
    member[3:6, 0:3] = True
    regions = connected_regions(member, 2)
    assert [int(r.sum()) for r in regions] == [2, 9] and bool(regions[0, 1, 6])


def test_questions_have_box_point_and_mask() -> None:
    labels, probability = torch.zeros(20, 40, dtype=torch.int64), torch.full((20, 40), 0.1)
    labels[5:15, 10:31], probability[5:15, 10:31] = 1, 0.6
    probability[7, 20] = 0.9
    rule = PromptRule(least_probability=0.5, least_area=30, mask_factor=0.01)
    asked = rule.questions(labels, 1, probability, picture=(40, 80), side=160)
    # From 20 x 40 to SAM's 80 x 160.
    assert asked.boxes.tolist() == [[40.0, 20.0, 120.0, 56.0]] and asked.points.tolist() == [[80.0, 28.0]]
    assert asked.mask.shape == (1, 40, 40) and not asked.mask[:, 20:].any()
    assert float(asked.mask.max()) == pytest.approx(0.009) and not asked.mask[0, 0].any()
    assert rule.questions(labels, 0, torch.full((20, 40), 0.1), picture=(40, 80), side=160) is None


class Told:
    """Stands in for SAM's answers."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self.given = answers
        self.rule = PromptRule(least_probability=0.0, least_area=1, mask_factor=1.0)

    def answers(self, _view, coarse, _probability):
        return ((number, self.given[number]) for number in coarse.unique().tolist() if number in self.given)


def prediction() -> NamePrediction:
    maps = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(0))
    mosaic = Mosaic(tiles=TileGrid.whole(SIZE))
    return NamePrediction(
        images=[ImageMaps(maps, mosaic)],
        classes=torch.tensor([0, 0, 1, 2]),
        num_classes=3,
        rule=LabelRule(logit_scale=2.0),
    )


def test_probabilities_of_single_classes_are_those_of_the_whole_volume() -> None:
    plain = prediction()
    (volume,) = plain.scores([SIZE])
    single = ClassProbabilities(plain, 0, SIZE)
    torch.testing.assert_close(torch.stack([single(number) for number in range(3)]), volume)
    half = F.interpolate(volume[None], size=(12, 16), mode="bilinear")[0].amax(dim=0)
    torch.testing.assert_close(single.best_at_half(), half)
    assert coarse_labels(plain.label_maps([SIZE])[0], half, 0.5)[half < 0.5].eq(-1).all()


def test_answers_take_over_where_they_are_the_best() -> None:
    plain = prediction()
    (labels,), (volume,) = plain.label_maps([SIZE]), plain.scores([SIZE])
    first, second, failed = torch.zeros(SIZE), torch.zeros(SIZE), torch.zeros(12, 16, dtype=torch.bool)
    first[:, :20], second[:, 10:30] = 0.4, 0.7
    failed[:, 15] = True
    none = torch.zeros_like(failed)
    refined = RefinedPrediction(
        **{name: getattr(plain, name) for name in ("images", "classes", "num_classes", "rule")},
        refiner=Told({0: Answer(None, none), 1: Answer(first, none), 2: Answer(second, failed)}),
        views=[None],
    )
    (sharp,) = refined.label_maps([SIZE])
    assert sharp[:, :10].eq(1).all() and sharp[:, 10:30].eq(2).all() and torch.equal(sharp[:, 30:], labels[:, 30:])
    (scores,) = refined.scores([SIZE])
    assert torch.equal(scores[2, :, 10:30], second[:, 10:30]) and not scores[0, :, :30].any()
    torch.testing.assert_close(scores[:, :, 30:], volume[:, :, 30:])
    torch.testing.assert_close(refined.top([SIZE], 2)[0].scores, scores.topk(2, dim=0).values)
    # Where SAM is believed nowhere, nothing changes.
    refined.refiner.given = {1: Answer(None, failed)}
    assert torch.equal(refined.label_maps([SIZE])[0], labels)
    torch.testing.assert_close(refined.scores([SIZE])[0], volume)


@torch.no_grad()
def test_without_sam_it_is_splice_then_segment() -> None:
    model = build()
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = model.preprocess([{"image": image}])
    (encoded,) = model.encode(images)
    # 90 to 96, 70 * 96 / 90 to 74, to 80, in patches of 8.
    assert encoded.features.shape[1:] == (10, 12) and encoded.beside is None
    text = model.embed_vocabulary(Vocabulary.from_words(["sky", "grass", "cat"]))
    assert model.decode([encoded], text).label_maps([(30, 40)])[0].shape == (30, 40)
    model.windows_per_batch = 1
    (alone,) = model.encode(images)
    torch.testing.assert_close(encoded.features, alone.features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.TRIDENT.REFINE", "True"], r"REFINE is True, but MODEL\.TRIDENT\.AGGREGATE is False"),
        (["MODEL.FOUNDATION.NAME", "sam_vitb"], r"Trident has SAM as MODEL\.SAM"),
        (["MODEL.TRAINING_FREE.METHOD", "naclip"], r"Trident's last block has an attention of its own"),
    ],
)
def test_settings_that_contradict(opts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*opts)

"""Reading a case: seeds, formulas, settings and weights in its own words; the comparison notices what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conformance.case import Case
from conformance.formulas import evaluate
from conformance.inputs import pictures_of, shortest_edge, striped_batch
from conformance.recording import Arrays
from conformance.seeded import seeded_image, seeded_tensor
from conformance.segments import compare_segments
from conformance.settings import choice, free, only, options, pairs, to
from conformance.training import compare_step
from conformance.weights import tweaked
from twostage.config import load_config
from twostage.errors import UserError
from twostage.predictions.geometry import Geometry
from twostage.predictions.masks import MaskPrediction
from twostage.predictions.segments import instances, panoptic_segments


def test_seeded_streams_are_the_reference_ones():
    x = seeded_tensor("a.weight", (3, 4), seed=0)
    assert x.shape == (3, 4) and abs(float(x.std()) - 0.5) < 0.25
    assert float(seeded_tensor("logit_scale", ())) == pytest.approx(2.659260)
    assert seeded_tensor("bn.running_var", (5,)).min() >= 0.5
    assert seeded_image(20, 30, 1).shape == (20, 30, 3)


def test_a_wrong_model_would_be_noticed(reference):
    """The check itself: a changed array fails."""
    case = Case.read(reference / "san" / "public-small-base.json")
    stored = case.arrays["mask_logits"]
    assert case.compare("mask_logits", stored).passed
    assert not case.compare("mask_logits", stored * (1 + 1e-3)).passed
    assert not case.compare("mask_logits", torch.full(stored.shape, float("nan"))).passed
    assert not case.compare("mask_logits", stored[:-1]).passed


@pytest.mark.parametrize(
    "content", ['{"a": {"shape": [1]}}', "[1]", "no json", '{"weight_seed": 0, "arrays": {"a": "not there"}}']
)
def test_what_is_no_case_is_said(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        Case.read(tmp_path / "x.json")


def test_a_formula_means_what_it_says():
    assert evaluate("4*100+i", i=3) == 403
    assert evaluate("(7*(y//32) + b) mod 11", y=np.array([0, 64]), b=1).tolist() == [1, 4]
    assert evaluate("(y-120)^2+(x-90)^2<3600", y=120, x=np.array([31, 30])).tolist() == [True, False]
    assert evaluate("|y-50|<3", y=np.array([47, 48])).tolist() == [False, True]
    for wrong in ("__import__('os')", "i.real", "[1]", "j", "4 +"):
        with pytest.raises(UserError, match="can't be read"):
            evaluate(wrong, i=1)


def test_pictures_have_the_seeds_of_the_text():
    ours = pictures_of("2 crops: seeded_image(20,30,4*100+i), i=0..1, RGB", 2)
    assert np.array_equal(ours[1], seeded_image(20, 30, 401))


def test_resizes_are_those_of_the_text():
    picture = seeded_image(40, 50, 0)
    assert shortest_edge(picture, "fed as is") is picture
    assert shortest_edge(picture, "ResizeShortestEdge(80, 90)").shape == (72, 90, 3)
    assert shortest_edge(picture, "ResizeShortestEdge").shape == (640, 800, 3)


def test_stripes_are_those_of_the_text():
    meta = {
        "images": [{"height": 8, "width": 8, "seed": 0}, {"height": 4, "width": 8, "seed": 1}],
        "ground_truth": "label(y,x) = ((y//4 + 2*(x//4)) % k)*2 + 1 with k=4 for image 0 and k=2 for image 1; "
        "rows y<1 are 255 (ignored).",
    }
    first, second = striped_batch(meta, vocabulary=["a"])
    assert first["instances"].gt_classes.tolist() == [1, 3, 5, 7] and first["vocabulary"] == ["a"]
    assert second["instances"].gt_classes.tolist() == [1] and int(second["instances"].gt_masks.sum()) == 24


def test_settings_are_taken_over_or_refused():
    table = {
        "A.LAYERS": to("MODEL.X", convert=lambda n: n - 1),
        "A.FILL": choice("MODEL.Y", {"mean": "average"}),
        "A.APE": only(False),
        "A.PATH": free,
    }
    given = pairs(["A.LAYERS", 10, "A.FILL", "mean"], {"A.APE": False, "A.PATH": "x", "SOLVER.BASE_LR": 0.1})
    assert options(table, given) == ["MODEL.X", "9", "MODEL.Y", "average", "SOLVER.BASE_LR", "0.1"]
    for key, value, said in (("A.APE", True, "always False"), ("A.FILL", "red", "known here"), ("A.NEW", 1, "no key")):
        with pytest.raises(UserError, match=said):
            options(table, {key: value})


def test_tweaks_of_weights():
    assert tweaked(torch.ones(2), "seeded tensor times 64.0", None).tolist() == [64, 64]
    assert tweaked(torch.ones(2, 2), "row [0] set to 0", None).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(UserError, match="unknown way"):
        tweaked(torch.ones(2), "doubled", None)


def test_segments_and_instances_are_compared(tmp_path):
    """A prediction against its own output, whatever the order of instances; then with one thing changed."""
    torch.manual_seed(0)
    prediction = MaskPrediction(
        mask_logits=4 * torch.randn(1, 6, 8, 8),
        class_logits=4 * torch.randn(1, 6, 4),
        geometry=Geometry.on_grid((8, 8), [(8, 8)]),
    )
    cfg = load_config("", ["TEST.PANOPTIC_SCORE", "0.2", "TEST.PANOPTIC_OVERLAP", "0.1"])
    ((ids, segments),) = panoptic_segments(prediction, [(8, 8)], [0, 2], score_threshold=0.2, overlap_threshold=0.1)
    (found,) = instances(prediction, [(8, 8)], [0, 2])
    assert segments and len(found) > 2
    arrays = {
        "panoptic_seg": ids[::4, ::4].numpy(),
        "inst_scores": found.scores.flip(0).numpy(),
        "inst_classes": found.pred_classes.flip(0).numpy(),
        "inst_areas": found.pred_masks.flatten(1).sum(1).flip(0).numpy(),
    }
    meta = {"thing_ids": "even class indices", "segments_info": segments}
    path = tmp_path / "x.json"
    rows = compare_segments(Case(path, meta, arrays), prediction, (8, 8), cfg)
    assert len(rows) == 5 and all(row.passed for row in rows)
    wrong = {**arrays, "inst_classes": (arrays["inst_classes"] + 1) % 3}
    rows = compare_segments(Case(path, {**meta, "segments_info": []}, wrong), prediction, (8, 8), cfg)
    assert sorted(row.name for row in rows if not row.passed) == ["match_inst_classes", "segments_info"]


def test_a_table_may_stand_beside_the_case(tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"trainable": {}}))
    case = Case(tmp_path / "x.json", {}, {})
    assert case.beside("t.json") == {"trainable": {}} and case.beside("missing.json") is None


def test_an_array_may_lie_twice_as_far_as_the_authors_own_second_run():
    """Only one that the case names for it, in inference and in a training step alike."""
    stored = np.array([1.0, 2.0])
    note = {"two_threads_max_rel_diff": 3e-4, "two_threads_note": "only pred_logits moves"}
    case = Case(Path("case.json"), note, {"pred_logits": stored, "pred_masks": stored})
    for distance, expected in (
        (5e-4, {"pred_logits": True, "pred_masks": False}),
        (7e-4, dict.fromkeys(case.names, False)),
    ):
        ours = Arrays({name: torch.from_numpy(stored * (1 + distance)) for name in case.names})
        for rows in (case.compare_all(ours), compare_step(case, ours)):
            assert {row.name: row.passed for row in rows} == expected

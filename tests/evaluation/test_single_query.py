"""Single-query IoU: a system whose scores are known, figures by hand, what is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from twostage.data.labels import write_label_map
from twostage.data.views import dataset_info
from twostage.errors import UserError
from twostage.evaluation.dataset import EvaluatedDataset
from twostage.evaluation.semantic import SemanticSegmentationEvaluator
from twostage.evaluation.single_query import KEY, SingleQueries, SingleQueryMeasure
from twostage.predictions.dense import DensePrediction
from twostage.predictions.geometry import Geometry
from twostage.segmenter import OpenVocabularySegmenter
from twostage.vocabulary import Vocabulary


class KnownScores(OpenVocabularySegmenter):
    """Scores of each name are a function of the name and the pixel; counts what is encoded."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.encoded = 0
        self.precision = None

    def preprocess(self, batch):
        return batch[0]["image"]

    def encode(self, images):
        self.encoded += 1
        return images.shape[-2:]

    def embed_vocabulary(self, vocabulary):
        return vocabulary.names

    def decode(self, encoded, text):
        maps = [self.scores(name, encoded) for name in text]
        return DensePrediction(
            logits=torch.stack(maps)[None], geometry=Geometry(padded=encoded, images=[encoded]), num_classes=len(text)
        )

    @staticmethod
    def scores(name, size):
        return torch.rand(size, generator=torch.Generator().manual_seed(len(name) * 1000 + ord(name[-1])))


class Ordinary(torch.nn.Module):
    """The other outputs, which lie in the records."""

    def forward(self, batch):
        return [record["output"] for record in batch]


@pytest.fixture
def dataset(make_dataset):
    dataset = make_dataset(num_classes=5, num_images=4)
    MetadataCatalog.get(dataset.name).set(zero_shot=True, seen_classes=[0, 1], unseen_classes=[2, 3, 4])
    return dataset


def outputs_of(dataset, others):
    model = KnownScores()
    wrapped = SingleQueries(
        Ordinary(), model=model, dataset=EvaluatedDataset.of(dataset_info(dataset.name)), others=others
    )
    outputs = []
    for record, output in zip(dataset.records, dataset.outputs(), strict=True):
        image = torch.zeros(3, record["height"], record["width"])
        outputs += wrapped([{**record, "image": image, "output": output}])
    assert model.encoded == len(dataset.records)
    return outputs


def evaluated(dataset, outputs):
    evaluator = SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[SingleQueryMeasure])
    evaluator.process(dataset.records, outputs)
    return evaluator.evaluate()["sem_seg"], evaluator.measures[1]


def slow_iou(dataset, claims):
    """IoU per class from `claims(class, size)`, counted over the images that show it."""
    found = {}
    for c in range(5):
        hit = union = 0
        for label in dataset.labels:
            if (label == c).any():
                valid, claimed = label != 255, claims(c, label.shape)
                hit += (claimed & valid & (label == c)).sum()
                union += ((claimed | (label == c)) & valid).sum()
        if union:
            found[c] = 100 * hit / union
    return found


@pytest.mark.parametrize("others", [(), ("wall",), ("wall", "sky")])
def test_figures_by_hand(dataset, others):
    def claims(c, size):
        asked = KnownScores.scores(f"class {c}", size)
        return np.logical_and.reduce(
            [np.ones(size, bool)] + [(asked >= KnownScores.scores(o, size)).numpy() for o in others]
        )

    figures, measure = evaluated(dataset, outputs_of(dataset, lambda _: others))
    iou = slow_iou(dataset, claims)
    assert figures["mIoU-single"] == pytest.approx(np.mean(list(iou.values())))
    assert figures["mIoU-single-seen"] == pytest.approx(np.mean([iou[0], iou[1]]))
    assert figures["mIoU-single-unseen"] == pytest.approx(np.mean([iou[c] for c in iou if c > 1]))
    per_class = measure.record()["single_query_iou_per_class"]
    assert np.isnan(per_class[4]) and per_class[0] == pytest.approx(iou[0])  # no label shows class 4


def test_a_single_word_alone_takes_everything(dataset):
    for output in outputs_of(dataset, lambda _: ()):
        assert output[KEY] and all(claimed.all() for claimed in output[KEY].values())


def test_parts_add_up(dataset):
    outputs = outputs_of(dataset, lambda _: ("wall",))
    whole = evaluated(dataset, outputs)[1]
    halves = [SingleQueryMeasure(whole.dataset) for _ in range(2)]
    evaluators = [
        SemanticSegmentationEvaluator(dataset_info(dataset.name), measures=[SingleQueryMeasure]) for _ in halves
    ]
    evaluators[0].process(dataset.records[:1], outputs[:1])
    evaluators[1].process(dataset.records[1:], outputs[1:])
    halves[0].add(evaluators[1].measures[1].total())
    halves[0].add(evaluators[0].measures[1].total())
    assert halves[0].figures() == whole.figures()


def test_questions_need_no_list(dataset):
    """What is asked, and what competes with it, is found from the class's own names."""
    asked = []
    outputs_of(dataset, lambda vocabulary: asked.append(vocabulary.names) or ())
    assert {len(names) for names in asked} == {1}


def test_prompts_of_a_class_are_asked_together_and_background_is_not(make_dataset):
    dataset = make_dataset(num_classes=4, num_images=1)
    MetadataCatalog.get(dataset.name).set(
        prompt_classes=list("abcdef"), prompt_to_class=[0, 1, 2, 3, 3, 3], background_class=1
    )
    write_label_map(dataset.records[0]["sem_seg_file_name"], np.array([[0, 3], [255, 1]]))
    queries = SingleQueries(
        torch.nn.Identity(),
        model=KnownScores(),
        dataset=EvaluatedDataset.of(dataset_info(dataset.name)),
        others=lambda _: (),
    )
    assert queries.shown_classes(dataset.records[0]) == [0, 3]
    assert queries.query(3) == Vocabulary(("d", "e", "f"))


def test_a_model_that_answers_no_queries_is_refused(dataset):
    with pytest.raises(UserError, match=r"TEST\.SINGLE_QUERY False"):
        evaluated(dataset, dataset.outputs())

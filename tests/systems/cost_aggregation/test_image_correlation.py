"""Image-to-image correlation against its formula written out, and what it may and may not change."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twostage.systems.one_stage.cost_aggregation.cost_map import cost_map
from twostage.systems.one_stage.cost_aggregation.variants.image_correlation import ImageCorrelation


def test_weights_equal_the_formula_pair_by_pair():
    torch.manual_seed(0)
    x = F.normalize(torch.randn(2, 5, 9) + 0.3, dim=1)
    weights = ImageCorrelation(append=False, shift=1.2, scale=3.0).weights(x)
    for image in range(2):
        pairs = [[float(x[image, :, i] @ x[image, :, j]) for j in range(9)] for i in range(9)]
        mean = sum(map(sum, pairs)) / 81
        for i in range(9):
            raised = [torch.tensor(3.0 * (s - 1.2 * mean)) for s in pairs[i]]
            kept = torch.stack([a.exp() if a >= 0 else torch.tensor(0.0) for a in raised])
            assert (kept == 0).any()
            torch.testing.assert_close(weights[image, i], kept / kept.sum())


def test_two_kinds_of_pixels_keep_to_themselves():
    embeddings = torch.zeros(1, 2, 1, 5)
    embeddings[0, 0, 0, :3] = 1.0
    embeddings[0, 1, 0, 3:] = 1.0
    # About their mean the kinds are opposite: similarity 1 within and -1 across, its mean (3 - 2)^2 / 25.
    refined = ImageCorrelation(append=False).refine(embeddings)
    torch.testing.assert_close(refined, embeddings)
    # With a shift of -30 nothing is left out: 3 exp(2) against 2 exp(-2) for the first kind.
    soft = ImageCorrelation(append=False, shift=-30.0, scale=2.0).refine(embeddings)[0, :, 0, 0]
    torch.testing.assert_close(soft[0] / soft[1], torch.tensor(1.5) * torch.tensor(4.0).exp())


def test_what_all_pixels_have_in_common_does_not_tell_them_apart():
    torch.manual_seed(0)
    correlation, embeddings = ImageCorrelation(append=False), torch.randn(1, 8, 3, 3)
    common = embeddings + 20 * torch.randn(1, 8, 1, 1)
    # Similarity itself would leave each pixel alone, so that nothing happens.
    torch.testing.assert_close(correlation.weights(F.normalize(common, dim=1).flatten(2))[0], torch.eye(9))
    deviation = F.normalize(embeddings - embeddings.mean(dim=(2, 3), keepdim=True), dim=1).flatten(2)
    weights = correlation.weights(deviation)
    assert ((weights > 0).sum(dim=-1) > 1).all()
    wanted = F.normalize(common, dim=1).flatten(2) @ weights.transpose(1, 2)
    torch.testing.assert_close(correlation.refine(common).flatten(2), wanted)


def test_an_image_of_one_embedding_stays_what_it_is():
    refined = ImageCorrelation(append=False).refine(torch.full((1, 4, 2, 3), 5.0))
    torch.testing.assert_close(refined, torch.full((1, 4, 2, 3), 0.5))


def test_costs_of_every_class_are_spread_with_the_same_weights():
    torch.manual_seed(0)
    embeddings, text = torch.randn(2, 6, 3, 4), F.normalize(torch.randn(7, 1, 6), dim=-1)
    correlation = ImageCorrelation(append=True)
    plain, refined = correlation(embeddings)
    assert plain is embeddings
    deviation = embeddings - embeddings.mean(dim=(2, 3), keepdim=True)
    weights = correlation.weights(F.normalize(deviation, dim=1).flatten(2))
    spread = cost_map(embeddings, text)[:, :, 0].flatten(2) @ weights.transpose(1, 2)
    torch.testing.assert_close(torch.einsum("td,bdn->btn", text[:, 0], refined.flatten(2)), spread)
    joined = cost_map(plain, text, refined)
    assert joined.shape == (2, 7, 2, 3, 4)
    length = refined.norm(dim=1)[:, None]
    torch.testing.assert_close(joined[:, :, 1], spread.unflatten(2, (3, 4)) / length)
    torch.testing.assert_close(joined[:, :, :1], cost_map(embeddings, text))


def test_other_features_lead_on_the_grid_of_the_embeddings():
    torch.manual_seed(0)
    embeddings = torch.randn(1, 6, 2, 2)
    features = torch.zeros(1, 2, 4, 4)
    features[:, 0, :, :2] = 1.0
    features[:, 1, :, 2:] = 3.0
    refined, none = ImageCorrelation(append=False, guided=True)(embeddings, features)
    assert not torch.allclose(ImageCorrelation(append=False)(embeddings, features)[0], refined)
    unit = F.normalize(embeddings, dim=1)
    # Left and right columns look different to the features, so each column shares its mean.
    torch.testing.assert_close(refined, unit.mean(dim=2, keepdim=True).expand_as(unit))
    assert none is None

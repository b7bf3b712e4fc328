"""Outcomes of a cell: recall, accuracy and the common scales, against independent implementations and closed forms."""

import numpy as np
import pytest
import timm.utils
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classify_clip import classification, distances, retrieval
from classify_clip.data import Images, Pairs
from interventions import parse
from tests.builders import small


def first_right_place(score, right):
    """By sorting: candidates by falling score, wrong ones first among equals; the place of the first right one."""
    order = sorted(range(len(score)), key=lambda j: (-score[j], right[j]))
    return 1 + next(place for place, j in enumerate(order) if right[j])


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_ranks_agree_with_sorting_with_several_captions_per_image_and_ties(groups, captions, seed):
    generator = np.random.default_rng(seed)
    image = generator.integers(-1, 2, (groups, 3)).astype(float)  # few distinct values: many exact ties
    text = generator.integers(-1, 2, (groups * captions, 3)).astype(float)
    image_group, text_group = np.arange(groups), np.repeat(np.arange(groups), captions)
    for query, key, mine, theirs in ((image, text, image_group, text_group), (text, image, text_group, image_group)):
        found = retrieval.ranks(query, key, mine, theirs)
        score = query @ key.T
        expected = [first_right_place(score[i], (theirs == mine[i]).tolist()) for i in range(len(query))]
        assert found.tolist() == expected
        for k in (1, 5, 10):
            assert retrieval.recall(found)[k] == pytest.approx(np.mean([place <= k for place in expected]))


def test_a_tie_counts_against_the_query_and_a_score_that_is_no_number_comes_last():
    same = np.ones((3, 1))
    assert retrieval.ranks(same, same, np.arange(3), np.arange(3)).tolist() == [3, 3, 3]
    broken = np.array([[np.nan], [1.0]])
    assert retrieval.ranks(broken, np.array([[1.0], [2.0]]), np.arange(2), np.arange(2)).tolist() == [2, 1]


def test_top_k_agrees_with_timms_own_accuracy():
    classifier = small.classifier()
    data = Images("test", tuple(map(str, range(50))), np.arange(50) % 5, small.CLASSES, small.picture)
    found = classification.outputs(classifier, data, parse("clean"))
    values = classification.compare(found, found, data.label)
    pixels = torch.stack([small.to_tensor(small.picture(k)) for k in range(50)])
    logits, label = classifier.model(pixels), torch.from_numpy(data.label)
    for name, k in (("correct", 1), ("correct5", 5)):
        assert 100 * values[name].mean() == pytest.approx(timm.utils.accuracy(logits, label, topk=(k,))[0].item())
    third = timm.utils.accuracy(logits, label, topk=(3,))[0].item()
    assert 100 * (values["prediction"][:, :3] == data.label[:, None]).any(1).mean() == pytest.approx(third)
    loss = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    np.testing.assert_allclose(values["loss"], loss.numpy(), atol=1e-5)


def test_an_output_compared_with_itself_is_at_no_distance_and_a_constant_on_the_logits_is_none_either():
    features, logits = np.random.default_rng(0).normal(size=(2, 20, 6))
    clean = classification.Outputs(features, logits)
    values = classification.compare(classification.Outputs(features, logits + 7.5), clean, np.arange(20) % 6)
    assert values["agree"].all()
    assert values["logit_distance"].max() < 1e-12
    assert values["feature_fvu"].max() == 0
    assert values["mmd2"] == pytest.approx(0, abs=1e-9)


def test_mmd_of_two_points_is_the_kernels_closed_form():
    x, y = np.tile([1.0, 0.0], (5, 1)), np.tile([0.0, 1.0], (7, 1))
    expected = 1000 * (2 - 2 * np.exp(-2 / (2 * 10.0**2)))  # |x - y|^2 = 2
    assert distances.mmd2(x, y) == pytest.approx(expected, rel=1e-12)
    assert distances.mmd2(x, y) == pytest.approx(10 * 2, rel=0.01)  # the reading of it: 10 |mean difference|^2


def test_mmd_equals_the_double_sum():
    x, y = np.random.default_rng(1).normal(size=(2, 30, 4))
    kernel = lambda a, b: np.mean([[np.exp(-((p - q) ** 2).sum() / 8) for q in b] for p in a])  # noqa: E731
    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert distances.mmd2(x, y, sigma=2.0) == pytest.approx(expected, rel=1e-9)


def test_a_shift_by_one_standard_deviation_is_an_unexplained_variance_of_one():
    clean = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # total variance 1
    np.testing.assert_allclose(distances.shift(clean, clean + np.array([0.6, 0.8])), 1.0)


def test_the_gallery_curve_of_chance_embeddings_is_one_over_its_size():
    generator = np.random.default_rng(0)
    made = retrieval.Embeddings(*distances.unit(generator.normal(size=(2, 400, 32))))
    images = Images("test", tuple(map(str, range(400))), np.full(400, -1), (), small.picture)
    pairs = Pairs(images, tuple("a" * 400), np.arange(400), np.arange(400))
    mean, _ = retrieval.gallery_curve(made, pairs, [16, 64], resamples=100)
    for value, size in zip(mean, (16, 64), strict=True):
        sd = np.sqrt((1 / size) / (100 * size))
        assert np.abs(value - 1 / size).max() < 6 * sd


def test_the_whole_gallery_with_one_text_each_is_the_full_recall_and_smaller_galleries_are_easier():
    generator = np.random.default_rng(0)
    image = distances.unit(generator.normal(size=(60, 8)))
    made = retrieval.Embeddings(image, distances.unit(image + 0.4 * generator.normal(size=image.shape)))
    images = Images("test", tuple(map(str, range(60))), np.full(60, -1), (), small.picture)
    pairs = Pairs(images, tuple("a" * 60), np.arange(60), np.arange(60))
    mean, _ = retrieval.gallery_curve(made, pairs, [8, 60])
    full = [retrieval.recall(retrieval.ranks(a, b, np.arange(60), np.arange(60)))[1] for a, b in
            ((made.image, made.text), (made.text, made.image))]  # fmt: skip
    np.testing.assert_allclose(mean[1], full)
    assert (mean[0] > mean[1]).all()

"""Intervals over prompts: the ratio of two means."""

import numpy

from specdec.intervals import mean_with_interval, ratio_with_interval


def test_the_ratio_of_means_and_its_interval_by_the_delta_method():
    """With 400 prompts the bootstrap interval is near ratio ± 1.96 √(variance of (over − ratio · under) / n) / mean(under)."""
    rng = numpy.random.default_rng(1)
    under = rng.normal(0.6, 0.1, 400)
    over = 1.1 * under + rng.normal(0, 0.05, 400)
    found = ratio_with_interval(list(over), list(under), 0)
    ratio = over.mean() / under.mean()
    half = 1.96 * (over - ratio * under).std() / 400**0.5 / under.mean()
    assert abs(found["ratio"] - ratio) < 1e-12
    assert abs(found["interval"][0] - (ratio - half)) < 0.1 * half and abs(found["interval"][1] - (ratio + half)) < 0.1 * half
    unpaired = ratio_with_interval(list(over), list(rng.permutation(under)), 0)["interval"]
    assert unpaired[1] - unpaired[0] > 2 * (found["interval"][1] - found["interval"][0]), "a prompt's two values go together"


def test_the_interval_of_few_prompts_holds_the_true_mean_as_often_as_it_says():
    """The percentile bootstrap of ten normal values holds it nine times in ten."""
    draws = numpy.random.default_rng(3).normal(size=(2000, 10))
    intervals = [mean_with_interval(list(values), 0)["interval"] for values in draws]
    assert 0.935 < numpy.mean([low <= 0 <= high for low, high in intervals]) < 0.965


def test_the_interval_covers_the_true_ratio_nineteen_times_in_twenty():
    rng, covered = numpy.random.default_rng(2), 0
    for trial in range(100):
        under = rng.normal(0.02, 0.03, 60)
        over = 0.8 * under + rng.normal(0, 0.01, 60)
        low, high = ratio_with_interval(list(over), list(under), trial)["interval"]
        covered += low <= 0.8 <= high
    assert 88 <= covered <= 100


def test_a_ratio_to_nothing_is_no_number():
    gains = [0.01, -0.01, 0.02, -0.02, 0.01, -0.02, 0.03, -0.01]
    assert ratio_with_interval([0.1] * 8, gains, 0) == {"ratio": None, "interval": None}
    assert ratio_with_interval([0.1] * 8, [-0.1] * 8, 0)["ratio"] is None
    assert ratio_with_interval([0.3] * 3, [0.1] * 3, 0) == {
        "ratio": numpy.mean([0.3] * 3) / numpy.mean([0.1] * 3),
        "interval": None,
    }
    assert ratio_with_interval([0.3] * 8, [0.1] * 8, 0)["interval"] is not None

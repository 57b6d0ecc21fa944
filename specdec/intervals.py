"""Confidence intervals over prompts, never over tokens: the tokens of one answer are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

RESAMPLES = 10_000
FEWEST_FOR_BOOTSTRAP = 30  # of prompts, for a mean; of fewer, its percentile intervals are too short
FEWEST_FOR_RATIO = 8  # of prompts, for what is no mean and has no other interval; below, none is given


def mean_with_interval(values: list[float], seed: int) -> dict:
    """Mean, two-sided 95% interval and how many of `values` (one a prompt) are above zero.

    The interval is the percentile bootstrap over prompts, below FEWEST_FOR_BOOTSTRAP of them Student's t. One prompt has an
    interval of any width: none is given.
    """
    import numpy
    from scipy.stats import bootstrap, sem, t

    mean, count = sum(values) / len(values), len(values)
    if count == 1:
        interval = None
    elif len(set(values)) == 1:
        interval = [mean, mean]
    elif count < FEWEST_FOR_BOOTSTRAP:
        interval = [float(bound) for bound in t.interval(0.95, count - 1, loc=mean, scale=sem(values))]
    else:
        found = bootstrap(
            (numpy.array(values),), numpy.mean, n_resamples=RESAMPLES, method="percentile", rng=numpy.random.default_rng(seed)
        ).confidence_interval
        interval = [float(found.low), float(found.high)]
    return {"mean": mean, "interval": interval, "rose": sum(value > 0 for value in values)}


def ratio_with_interval(over: list[float], under: list[float], seed: int) -> dict:
    """The ratio of two means over the same prompts, mean(over) / mean(under), and its two-sided 95% interval.

    The interval is the percentile bootstrap over prompts, which draws a prompt's two values together. Both are None where the
    mean of `under` is not clearly above zero (in at least 97.5% of the resamples): a ratio to nothing is no number. The
    resamples in which it is not, 2.5% at most, are left out of the interval, which alone is None below FEWEST_FOR_RATIO
    prompts.
    """
    tops, bottoms = resampled_means(list(zip(over, under, strict=True)), seed, RESAMPLES).T
    top, bottom = sum(over) / len(over), sum(under) / len(under)
    above = bottoms > 0
    if bottom <= 0 or (~above).mean() > 0.025:
        return {"ratio": None, "interval": None}
    interval = bounds(tops[above] / bottoms[above]) if len(over) >= FEWEST_FOR_RATIO else None
    return {"ratio": top / bottom, "interval": interval}


def resampled_means(values: list, seed: int, resamples: int = 2000) -> numpy.ndarray:
    """The means [resamples, m] of `values` [n] or [n, m], one a prompt, each time over n prompts drawn with replacement.

    For what is no mean itself: a ratio of two of the m columns, the largest mean of several groups.
    """
    import numpy

    columns = numpy.array(values, dtype=float).reshape(len(values), -1)
    drawn = numpy.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    return columns[drawn].mean(axis=1)


def bounds(found: Sequence[float] | numpy.ndarray) -> list[float]:
    """The two-sided 95% percentile interval of a statistic's values [resamples] over the resamples."""
    import numpy

    return [float(bound) for bound in numpy.percentile(found, [2.5, 97.5])]

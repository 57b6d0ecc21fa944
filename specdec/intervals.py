"""Confidence intervals over prompts, never over tokens: the tokens of one answer are not independent."""

from __future__ import annotations

RESAMPLES, FEWEST_TO_RESAMPLE = 10_000, 8


def mean_with_interval(values: list[float], seed: int) -> dict:
    """Mean, two-sided 95% interval and how many of `values` (one a prompt) are above zero.

    The interval is the percentile bootstrap over prompts; below FEWEST_TO_RESAMPLE prompts it is Student's t, because
    resampling so few gives intervals that are far too short. One prompt has an interval of any width: none is given.
    """
    import numpy
    from scipy.stats import bootstrap, sem, t

    mean, count = sum(values) / len(values), len(values)
    if count == 1:
        interval = None
    elif len(set(values)) == 1:
        interval = [mean, mean]
    elif count < FEWEST_TO_RESAMPLE:
        interval = [float(bound) for bound in t.interval(0.95, count - 1, loc=mean, scale=sem(values))]
    else:
        found = bootstrap(
            (numpy.array(values),), numpy.mean, n_resamples=RESAMPLES, method="percentile", rng=numpy.random.default_rng(seed)
        ).confidence_interval
        interval = [float(found.low), float(found.high)]
    return {"mean": mean, "interval": interval, "rose": sum(value > 0 for value in values)}

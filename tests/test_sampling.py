"""The distribution that is sampled: its settings, and equal members in our loop and in transformers' `generate`."""

import pytest
import torch
from scipy.stats import chisquare

from specdec import models
from specdec.engine import Engine
from specdec.reference import generate_options
from specdec.sampling import Settings, check_settings, draw, draw_each, to_probs
from specdec.terminal import Problem

TIES = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 1.0, -2.0, 3.0]])


def kept(probs: torch.Tensor) -> list[int]:
    return probs[0].nonzero()[:, 0].tolist()


def test_top_p_takes_the_lower_ids_of_equal_tokens():
    assert kept(to_probs(TIES, Settings(temperature=1, top_p=0.5))) == [1, 3]
    assert kept(to_probs(TIES, Settings(temperature=1, top_p=0.9))) == [0, 1, 2, 3, 7]
    many = torch.zeros(1, 5000)  # unstable sorting shows in long rows alone
    taken = kept(to_probs(many, Settings(temperature=1, top_p=0.1)))
    assert taken == list(range(len(taken))) and len(taken) in (500, 501), "the 500th makes .1 but for rounding"


def test_a_row_keeps_the_same_tokens_alone_and_in_a_block():
    rows = torch.randint(0, 3, (6, 3000), generator=torch.Generator().manual_seed(0)).float()
    block = to_probs(rows, Settings(top_p=0.3))
    for number in range(6):
        assert torch.equal(block[number], to_probs(rows[number : number + 1], Settings(top_p=0.3))[0])


WEIGHTS = torch.tensor([0.0, 0.3, 0.0, 0.0, 1.2, 0.05, 0.45, 0.0])
SMALL = torch.full((150_000,), 1e-8)  # behind a token of 1, their 0.0015 is lost where float32 adds them up one by one
SMALL[0] = 1


def p_value(sampler, weights=WEIGHTS, count=20_000):
    """Of chi-square, that `sampler` draws the tokens that have a weight in its proportion; 0 if it draws another."""
    generator = torch.Generator().manual_seed(5)
    found = torch.bincount(torch.cat([sampler(weights, generator) for _ in range(count)]), minlength=len(weights) + 1)
    if found.sum() != found[: len(weights)][weights > 0].sum():
        return 0.0
    expected = count * weights / weights.sum()
    return chisquare(found[: len(weights)][weights > 0], expected[weights > 0], sum_check=False).pvalue


def test_draw_is_in_proportion_and_never_of_weight_zero():
    assert p_value(draw) > 0.01
    assert draw(torch.tensor([0.0, 0.0, 5e-7])).tolist() == [2]


def test_rows_are_drawn_each_by_its_own_generator_as_they_would_be_alone():
    rows = torch.stack([WEIGHTS, WEIGHTS.flip(0), WEIGHTS * 7])
    drawn = set()
    for three in ([3, 1, 2], [1, 3, 2], [2, 2, 2]):
        alone = [draw(row, torch.Generator().manual_seed(seed)) for row, seed in zip(rows, three, strict=True)]
        together = draw_each(rows, [torch.Generator().manual_seed(seed) for seed in three])
        assert together.tolist() == torch.cat(alone).tolist()
        drawn.add(tuple(together.tolist()))
    assert len(drawn) > 1


def at_the_share(weights, generator):
    """Takes the first that reaches the share, not the first that exceeds it; of three shares."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    share = torch.randint(0, 4, (1,), generator=generator) / 4
    return torch.searchsorted(cumulative, share * cumulative[-1])


def not_of_the_whole(weights, generator):
    """Takes the weights for probabilities: their sum is 2."""
    return torch.searchsorted(weights.cumsum(-1), torch.rand(1, generator=generator), right=True)


@pytest.mark.parametrize("broken", [at_the_share, not_of_the_whole])
def test_broken_draws_are_caught(broken):
    assert p_value(broken) < 1e-6


def test_small_weights_are_added_up():
    """In float32, one by one, nothing would be left of them; the last one ends the whole."""
    drawn = torch.cat([draw(SMALL, torch.Generator().manual_seed(seed)) for seed in range(4000)])
    assert 1 <= int((drawn > 0).sum()) <= 20, "6 are expected"
    assert float(draw_of_share(SMALL, 1 - 2**-53)) == len(SMALL) - 1


def draw_of_share(weights, share):
    """`draw`, whose uniform number is `share`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **options: torch.tensor([share], dtype=torch.float64))
        return draw(weights)


def test_top_k_keeps_all_that_equal_its_last():
    assert kept(to_probs(TIES, Settings(temperature=1, top_k=2))) == [1, 3, 7]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(temperature=0.7),
        Settings(temperature=1.0, top_p=0.5),
        Settings(temperature=1.0, top_k=2),
        Settings(temperature=1.3, top_k=5, top_p=0.6),
    ],
)
def test_generate_samples_from_the_same_distribution(tiny, settings):
    """The processors that `generate` really builds from our options, on logits full of ties, rows without a token included."""
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    logits = torch.randint(0, 3, (4, engine.rows), generator=torch.Generator().manual_seed(1)).float()
    options = generate_options(engine, settings)
    model, config = engine.verifier.model, options["generation_config"]
    config, _ = model._prepare_generation_config(config)
    model._prepare_special_tokens(config, device="cpu")
    processors = model._get_logits_processor(config, 1, logits_processor=options["logits_processor"])
    theirs = processors(torch.zeros(4, 1, dtype=torch.long), logits.clone()).softmax(-1)
    logits[:, engine.verifier.unnamed] = float("-inf")
    ours = to_probs(logits, settings)
    assert torch.equal(theirs > 0, ours > 0) and torch.allclose(theirs, ours, atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-40, 1e-7, -1, 1e7, float("nan"), float("inf")])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(Problem, match="--temperature must be 0"):
        check_settings(Settings(temperature=temperature))


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_the_extreme_temperatures_are_distributions(temperature):
    check_settings(Settings(temperature=temperature))
    probs = to_probs(torch.tensor([[500.0, -500.0, float("-inf")]]), Settings(temperature=temperature))
    assert probs.isfinite().all() and float(probs.sum()) == pytest.approx(1) and probs[0, 2] == 0

"""The distribution that is sampled: its settings, and equal members in our loop and in transformers' `generate`."""

import pytest
import torch

from specdec import models
from specdec.engine import Engine
from specdec.reference import generate_options
from specdec.sampling import Settings, check_settings, to_probs
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

"""The real-pair test of losslessness, here on the tiny models: the right loop passes, a broken rule fails."""

import json

import pytest
import torch
from test_exactness import TakesTheUnsureTokenBack

import check_exactness
import speculative_decode


@pytest.fixture
def no_assistant(monkeypatch):
    """Leaves out transformers' own assisted sampling, which takes most of the time and is reported alone."""

    def left_out(*arguments):
        raise ValueError("left out of this test")

    monkeypatch.setattr(check_exactness, "load_model", left_out)


@pytest.mark.parametrize("verifier", ["verifier", "overlapping"])
def test_generate_and_ours_agree_with_the_verifier(cli, tiny, verifier):
    status, out, err = cli(
        check_exactness, "--draft", tiny.draft, "--verifier", getattr(tiny, verifier), "--samples", 400, "--json", "-"
    )
    results = json.loads(out)["results"]
    assert status == 0, err
    assert results["ours"]["bins"] >= 4, "the distribution is not trivial"
    assert sum(row["found"] for row in results["ours"]["openings"]) == 400


def test_a_broken_rule_is_caught(cli, tiny, monkeypatch, no_assistant):
    """The free or corrective token is always the verifier's favourite."""
    right = speculative_decode.verify_draft

    def argmax(p, q, tokens, generator=None):
        accepted, _ = right(p, q, tokens, generator)
        return accepted, int(p[accepted].argmax())

    monkeypatch.setattr(speculative_decode, "verify_draft", argmax)
    status, out, _ = cli(check_exactness, "--draft", tiny.draft, "--verifier", tiny.verifier, "--samples", 400, "--json", "-")
    assert status == 1 and json.loads(out)["results"]["ours"]["p_value"] < 1e-6


@pytest.mark.parametrize("lossy", [False, True])
def test_a_draft_that_ends_when_unsure(cli, tiny, monkeypatch, no_assistant, lossy):
    """It passes; the variant that takes the unsure token back, instead of verifying it, fails.

    The draft is the verifier itself: of a draft that is never right even the wrong loop makes nearly the right text.
    """
    if lossy:
        monkeypatch.setattr(speculative_decode, "Drafter", TakesTheUnsureTokenBack)
    pair = ("--draft", tiny.verifier, "--verifier", tiny.verifier)
    status, out, err = cli(check_exactness, *pair, "--samples", 200, "--stop-below", 0.3, "--json", "-")
    result = json.loads(out)
    assert result["conditions"]["stop_below"] == 0.3
    assert (status, result["results"]["ours"]["p_value"] < 1e-6) == ((1, True) if lossy else (0, False)), err


def test_every_k_is_really_drafted(cli, tiny, monkeypatch, no_assistant):
    """At K = 8 a block that reaches the compared tokens drafts 8, unless a stop token ends it."""
    real, asked = speculative_decode._block, []

    def noting(verifier, drafter, last, k, *others):
        asked.append(k)
        return real(verifier, drafter, last, k, *others)

    monkeypatch.setattr(speculative_decode, "_block", noting)
    status, _, err = cli(
        check_exactness, "--draft", tiny.draft, "--verifier", tiny.verifier, "--samples", 200, "--k", 8, "--json", "-"
    )
    assert status == 0, err
    assert set(asked) == {8}


def test_a_cache_that_cannot_take_back_eight_tokens_is_caught(cli, tiny, monkeypatch, no_assistant):
    """Right up to three tokens: texts of three could not show it."""
    from specdec.backend import CachedModel

    drop = CachedModel.drop
    monkeypatch.setattr(CachedModel, "drop", lambda model, count: drop(model, min(count, 3)))
    status, out, _ = cli(
        check_exactness, "--draft", tiny.draft, "--verifier", tiny.verifier, "--samples", 400, "--k", 8, "--json", "-"
    )
    assert status == 1 and json.loads(out)["results"]["ours"]["p_value"] < 1e-6


@pytest.mark.parametrize(
    "arguments",
    [
        ["--samples", "3"],
        ["--temperature", "0"],
        ["--temperature", "1e-40"],
        ["--k", "0"],
        ["--prompt", " "],
        ["--stop-below", "2"],
    ],
)
def test_bad_input_is_one_line(cli, arguments):
    status, out, err = cli(check_exactness, *arguments)
    assert status == 1 and out == "" and len(err.splitlines()) == 1


def test_samples_far_from_the_distribution_fail():
    """All samples on one of two even openings: chi-square's p-value is nil, the distance a half."""

    class Names:
        decode = staticmethod(str)

    exact = {(0,): 0.5, (1,): 0.5}
    assert check_exactness.compare([(0,)] * 100, exact, Names)["p_value"] < 1e-12
    even = check_exactness.compare([(0,), (1,)] * 50, exact, Names)
    assert even["p_value"] == pytest.approx(1) and even["total_variation"] == pytest.approx(0)
    assert torch.tensor([row["found"] for row in even["openings"]]).sum() == 100
    outside = check_exactness.compare([(0,), (1,)] * 40 + [(2,)] * 20, exact, Names)
    assert outside["p_value"] < 1e-3, "texts that have no probability count against it"
    assert outside["others"] == ["[2]"]

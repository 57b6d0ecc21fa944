"""The n-gram table as a draft: counts by hand, the cache's bookkeeping, the exactness suite, and the commands that name one."""

import random
from types import SimpleNamespace

import pytest
import test_exactness
import torch
from test_evaluate import last_line, steps  # noqa: F401  (a fixture)
from test_exactness import NEVER, SETTINGS, VOCABULARY, Case, agreement, overlap_error, settings

import speculative_decode
from specdec.backend import CachedModel
from specdec.ngram import NgramModel
from specdec.sampling import Settings
from specdec.terminal import Problem
from speculative_decode import Drafter

CPU = torch.device("cpu")
TEXTS = [[5, 6, 5, 7], [5, 6, 5, 6]]  # after the opening 1, 2


def table(n: int = 3, texts=TEXTS, rows: int = 10) -> NgramModel:
    return NgramModel(texts, [1, 2], n, rows, CPU)


def probs(model: NgramModel, history: list[int]) -> dict[int, float]:
    model.start()
    row = model.feed(history)[0].softmax(-1)
    return {token: value for token, value in enumerate(row.tolist()) if value}


# --- the distribution -------------------------------------------------------------------------------------------------


def test_counts_by_hand():
    """5 stands four times, 6 three times, 7 once; 5 was followed by 6 three times and by 7 once."""
    unigram = {5: 4 / 8, 6: 3 / 8, 7: 1 / 8}
    assert probs(table(1), [5]) == pytest.approx(unigram)
    after_5 = {5: 2 * unigram[5] / 6, 6: (3 + 2 * unigram[6]) / 6, 7: (1 + 2 * unigram[7]) / 6}
    assert probs(table(2), [6, 5]) == pytest.approx(after_5)
    after_6_5 = {5: 2 * after_5[5] / 4, 6: (1 + 2 * after_5[6]) / 4, 7: (1 + 2 * after_5[7]) / 4}
    assert probs(table(3), [6, 5]) == pytest.approx(after_6_5)


def test_the_opening_is_a_context_and_no_text():
    """Both answers begin with 5 after 1, 2; the opening itself is never drafted."""
    first = probs(table(), [0, 1, 2])
    after_2 = {5: (2 + 4 / 8) / 3, 6: 3 / 8 / 3, 7: 1 / 8 / 3}
    assert first == pytest.approx({5: (2 + after_2[5]) / 3, 6: after_2[6] / 3, 7: after_2[7] / 3})


def test_an_unknown_context_falls_back_to_a_shorter_one():
    assert probs(table(), [0, 5]) == probs(table(2), [5]), "only 5 is known"
    assert probs(table(), [5, 0]) == probs(table(1), [0]), "nothing is known"
    assert probs(table(), [5]) == probs(table(2), [5]), "one token is no trigram's context"


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_rows_are_distributions(n):
    draw = random.Random(n)
    texts = [[draw.randrange(3, 40) for _ in range(60)] for _ in range(20)]
    model = table(n, texts, rows=50)
    model.start()
    rows = model.feed([draw.randrange(50) for _ in range(200)], keep=150).softmax(-1)
    assert rows.sum(-1).tolist() == pytest.approx([1.0] * 150, abs=1e-5)
    seen = sorted({token for text in texts for token in text})
    assert (rows[:, seen] > 0).all() and (rows > 0).sum(-1).tolist() == [len(seen)] * 150


def test_a_token_without_a_row_is_refused():
    with pytest.raises(Problem, match="token 10, the verifier only 10"):
        table(texts=[[5, 10]], rows=10)


# --- start, feed, drop ------------------------------------------------------------------------------------------------


def scrambled(model, history: list[int], seed: int, context: int) -> torch.Tensor:
    """Logits after `history`, which was read in pieces with wrong tokens between them that were dropped again."""
    draw = random.Random(seed)
    model.start()
    model.feed([5, 6, 7])
    model.start()
    position = 0
    while position < len(history):
        end = draw.randint(position + 1, len(history))
        wrong = [draw.choice((1, 2, 5, 6, 7)) for _ in range(draw.randint(0, context))]
        keep = draw.randint(1, end - position)
        logits = model.feed(history[position:end] + wrong, keep=keep + len(wrong))[:keep]
        model.drop(len(wrong))
        position = end
    return logits[-1]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_any_pieces_with_drops_equal_all_at_once(n):
    draw = random.Random(0)
    model = table(n)
    for seed in range(60):
        history = [1, 2] + [draw.choice((5, 6, 7)) for _ in range(draw.randint(1, 12))]
        model.start()
        once = model.feed(history, keep=len(history))
        assert torch.equal(scrambled(model, history, seed, context=4), once[-1])
        singles = [one(model, history[:end]) for end in range(1, len(history) + 1)]
        assert torch.equal(torch.stack(singles), once)


def one(model, history: list[int]) -> torch.Tensor:
    model.start()
    return model.feed(history)[0]


class NeverDrops(NgramModel):
    def drop(self, count):
        pass


class DropsOneTooMany(NgramModel):
    def drop(self, count):
        super().drop(count + 1)


class KeepsOneTooMany(NgramModel):
    def drop(self, count):
        super().drop(max(count - 1, 0))


BROKEN = [NeverDrops, DropsOneTooMany, KeepsOneTooMany]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_pieces_notice_a_wrong_drop(broken):
    model, right = broken(TEXTS, [1, 2], 3, 10, CPU), table()
    history = [1, 2, 5, 6, 5, 6]
    assert not all(torch.equal(scrambled(model, history, seed, 4), one(right, history)) for seed in range(20))


def test_seconds_are_counted_since_start():
    model = table()
    model.feed([1, 2])
    assert model.seconds > 0 and model.has_room(10**9)
    model.start()
    assert model.seconds == 0


# --- exactness: the suite of test_exactness on this kind of draft -----------------------------------------------------


class NgramCase(Case):
    """The table verifier of `Case`, and a table counted from texts of other probabilities; it lacks token 3 in part."""

    ngram_class = NgramModel

    def __init__(self, n: int = 3, lacking: bool = False):
        super().__init__()
        draw = random.Random(4)
        weights = (4, 2, 1, 0 if lacking else 1)
        texts = [draw.choices(range(VOCABULARY), weights, k=12) for _ in range(30)]
        self.make = lambda: self.ngram_class(texts, self.prompt[-2:], n, VOCABULARY, CPU)
        self.counted = self.make()
        self.shared = self.counted.shared
        self.draft = SimpleNamespace(logits=lambda history: one(self.counted, list(history)))

    def run(self, settings: Settings, stop=NEVER, seed=0, drafter_class=Drafter, cached_class=CachedModel, samples=2000):
        verifier = CachedModel(self.verifier_model, set(range(VOCABULARY)))
        drafter = drafter_class(self.make(), self.shared, VOCABULARY)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(samples):
            speculative_decode.prefill(verifier, self.prompt, drafter)
            yield list(speculative_decode.decode(verifier, self.prompt[-1], settings, stop, generator, drafter))


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_are_the_verifiers(name):
    assert agreement(NgramCase(), SETTINGS[name]) > 1e-3


@pytest.mark.parametrize("n, lacking", [(1, False), (2, True), (3, True), (4, False)])
def test_texts_are_the_verifiers_at_every_n(n, lacking):
    assert agreement(NgramCase(n, lacking), settings()) > 1e-3


def test_stop_tokens_inside_a_block():
    assert agreement(NgramCase(), settings(), frozenset({2})) > 1e-3


@pytest.mark.parametrize("name", test_exactness.BROKEN_RULES)
def test_broken_rule_is_caught(name, monkeypatch):
    monkeypatch.setattr(speculative_decode, "verify_draft", test_exactness.BROKEN_RULES[name])
    samples = 2000 if name == "argmax free token" else 800
    assert agreement(NgramCase(), settings(k=2), samples=samples) < 1e-6


@pytest.mark.parametrize("broken", [test_exactness.BeforeTemperature, test_exactness.ArgmaxDraft])
def test_broken_draft_is_caught(broken):
    assert agreement(NgramCase(), settings(temperature=0.4), drafter_class=broken) < 1e-6


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_overlap_is_exact(n, k):
    assert overlap_error(NgramCase(n), settings(k)) < 1e-5


@pytest.mark.parametrize("broken", BROKEN)
def test_a_wrong_drop_shows_in_the_overlap(broken):
    case = NgramCase()
    case.ngram_class = broken
    assert overlap_error(case, settings(k=3), samples=100) > 0.02


@pytest.mark.parametrize(
    "broken", [test_exactness.ForgetsOneTooMany, test_exactness.KeepsARejectedToken, test_exactness.SkipsItsLastDraft]
)
def test_a_drafter_that_is_off_by_one_is_caught(broken):
    assert overlap_error(NgramCase(), settings(k=2), drafter_class=broken, samples=200) > 0.02

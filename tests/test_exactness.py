"""Speculative decoding must not change the verifier's distribution: exact enumeration, and broken rules that fail.

The models are tables: their logits depend on the last two tokens of the KV cache and on its length, so that a cache
that is one token off, or a token read twice, shows in the texts. The cache is transformers' own DynamicCache.
"""

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

import speculative_decode
from specdec.backend import CachedModel
from specdec.sampling import Settings
from specdec.terminal import Problem
from specdec.trace import Run, summarize
from specdec.vocabulary import VocabularyMap
from speculative_decode import Drafter, decode, prefill, verify_draft

VOCABULARY, LENGTH, SAMPLES = 4, 4, 2000
NEVER = frozenset()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


class TableModel:
    """Looks like a transformers model; keeps the tokens themselves as the cache's keys."""

    def __init__(self, seed: int, vocabulary: int = VOCABULARY, rows: int | None = None):
        generator = torch.Generator().manual_seed(seed)
        rows = rows or vocabulary
        self.table = (1.5 * torch.randn(2, rows, rows, rows, generator=generator)).tolist()
        self.config = SimpleNamespace(vocab_size=rows)
        self.dtype = torch.float32
        self.device = torch.device("cpu")

    def row(self, history: list[int]) -> list[float]:
        before = history[-2] if len(history) > 1 else 0
        return self.table[len(history) % 2][before][history[-1]]

    def logits(self, history: list[int]) -> torch.Tensor:
        return torch.tensor(self.row(history))

    def __call__(self, tokens, past_key_values, use_cache, logits_to_keep):
        new = tokens[0].view(1, 1, -1, 1)
        history = past_key_values.update(new, new, 0)[0].flatten().tolist()
        ends = range(len(history) - logits_to_keep + 1, len(history) + 1)
        return SimpleNamespace(logits=torch.tensor([[self.row(history[:end]) for end in ends]]))


class Case:
    """A verifier and a draft over one vocabulary (identical), or over two that share three of four tokens."""

    prompt = [1, 0, 2]
    draft_context = None

    def __init__(self, overlapping: bool = False, padding: int = 0):
        self.verifier_model = TableModel(1, rows=VOCABULARY + padding)
        self.draft = TableModel(2, vocabulary=5 if overlapping else VOCABULARY)
        if overlapping:  # 3 of the verifier is no draft token; the draft reads two of its own for it
            pieces = {0: (4,), 1: (2,), 2: (0,), 3: (1, 3)}
            self.shared = VocabularyMap("intersection", (4, 2, 0), (0, 1, 2), pieces.__getitem__)
        else:
            ids = tuple(range(VOCABULARY))
            self.shared = VocabularyMap("identical", ids, ids, lambda id: (id,))

    def run(self, settings: Settings, stop=NEVER, seed=0, drafter_class=Drafter, cached_class=CachedModel, samples=SAMPLES):
        """Yields the blocks of `samples` decoded texts."""
        verifier = CachedModel(self.verifier_model, set(range(VOCABULARY)))
        verifier.__class__ = cached_class  # a broken one would not pass the check that a CachedModel makes of its cache
        draft = CachedModel(self.draft, set(range(self.draft.config.vocab_size)), self.draft_context)
        drafter = drafter_class(draft, self.shared, self.verifier_model.config.vocab_size)
        generator = torch.Generator().manual_seed(seed)
        draft_prompt = self.shared.translate(self.prompt)
        for _ in range(samples):
            prefill(verifier, self.prompt, drafter, draft_prompt)
            yield list(decode(verifier, self.prompt[-1], settings, stop, generator, drafter))


# --- the exact distribution, by another way: plain Python over the table ----------------------------------------------


def reference_probs(logits: torch.Tensor, settings: Settings, allowed=range(VOCABULARY)) -> list[float]:
    """Temperature, then top-k, then top-p, written out; tokens outside `allowed` have probability 0."""
    weights = {token: float((logits[token].double() / settings.temperature).exp()) for token in allowed}
    if settings.top_k:
        weights = dict(sorted(weights.items(), key=lambda item: -item[1])[: settings.top_k])
    total, kept, mass = sum(weights.values()), {}, 0.0
    for token, weight in sorted(weights.items(), key=lambda item: -item[1]):
        if mass >= settings.top_p:
            break
        kept[token] = weight
        mass += weight / total
    return [kept.get(token, 0.0) / sum(kept.values()) for token in range(max(allowed) + 1)]


def exact_probabilities(case: Case, settings: Settings, stop) -> dict[tuple, float]:
    """Probability of every text of up to LENGTH tokens under the verifier alone."""
    exact: dict[tuple, float] = {}

    def grow(text: tuple, probability: float):
        if len(text) == LENGTH or (text and text[-1] in stop):
            exact[text] = probability
            return
        probs = reference_probs(case.verifier_model.logits(case.prompt + list(text)), settings)
        for token, value in enumerate(probs):
            if value:
                grow((*text, token), probability * value)

    grow((), 1.0)
    return exact


def agreement(case: Case, settings: Settings, stop=NEVER, **options) -> float:
    """The chi-square p-value of the decoded texts, cut to LENGTH tokens, against the verifier's exact probabilities."""
    exact = exact_probabilities(case, settings, stop)
    texts = Counter(
        tuple(token for block in blocks for token in block.tokens)[:LENGTH] for blocks in case.run(settings, stop, **options)
    )
    total = sum(texts.values())
    if set(texts) - set(exact):  # a text that the verifier cannot write
        return 0.0
    common = [text for text in exact if exact[text] * total >= 5]
    observed, expected = [texts[text] for text in common], [exact[text] * total for text in common]
    if total - sum(expected) >= 5:
        observed.append(total - sum(observed))
        expected.append(total - sum(expected))
    scale = sum(observed) / sum(expected)
    return chisquare(observed, [value * scale for value in expected]).pvalue


def metrics(blocks) -> dict:
    return summarize(Run("", "", 0, "", 0.0, tuple(blocks)))


def settings(k=3, **changes) -> Settings:
    return Settings(k=k, max_new_tokens=LENGTH + 2, **{"temperature": 0.7, **changes})


SETTINGS = {
    "temperature": settings(),
    "hot": settings(temperature=1.3),
    "top-k": settings(top_k=2),
    "top-p": settings(top_p=0.8),
    "top-k and top-p": settings(top_k=3, top_p=0.7),
    **{f"K={k}": settings(k) for k in (1, 2, 4, 5)},
}


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
@pytest.mark.parametrize("name", SETTINGS)
def test_texts_are_the_verifiers(name, overlapping):
    assert agreement(Case(overlapping), SETTINGS[name]) > 1e-3


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
def test_stop_tokens_inside_a_block(overlapping):
    stop = frozenset({2})
    assert agreement(Case(overlapping), settings(), stop) > 1e-3
    for blocks in Case(overlapping).run(settings(), stop, samples=200):
        text = [token for block in blocks for token in block.tokens]
        assert 2 not in text[:-1], "nothing follows a stop token"


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
def test_a_draft_whose_context_ends_inside_the_text(overlapping):
    """It drafts in the first blocks alone, fewer tokens near the end of its context; the texts stay the verifier's."""
    case = Case(overlapping)
    case.draft_context = len(case.shared.translate(case.prompt)) + 3
    assert agreement(case, settings()) > 1e-3
    drafted = {len(block.drafted) for blocks in case.run(settings(), samples=100) for block in blocks}
    assert {0, 3} <= drafted and len(drafted) > 2


def test_rows_without_a_token_are_never_sampled():
    case = Case(padding=3)
    for before in itertools.chain(*case.verifier_model.table):
        for row in before:
            row[VOCABULARY:] = [value + 9 for value in row[VOCABULARY:]]  # they would win nearly always
    assert agreement(case, settings()) > 1e-3


# --- deliberately broken rules, each of which the tests above must catch ----------------------------------------------


def broken_rule(accept=None, correct=None, free=None):
    """verify_draft with one step replaced."""

    def rule(p, q, tokens, generator=None):
        count = len(tokens)
        rows = torch.arange(count)
        p_token, q_token = p[rows, tokens], q[rows, tokens]
        uniform = torch.rand(count, generator=generator)
        accepted = (accept or (lambda u, p, q: u * q < p))(uniform, p_token, q_token)
        n = int(accepted.long().cumprod(0).sum())
        if n == count:
            weights = p[n] if free is None else free(p[n])
        elif correct is None:
            weights = (p[n] - q[n]).clamp(min=0)
        else:
            weights = correct(p[n], q[n])
        return n, int(torch.multinomial(weights + 1e-12, 1, generator=generator))

    return rule


def one_hot(p):
    return torch.nn.functional.one_hot(p.argmax(), len(p)).float()


def same_random_numbers(p, q, tokens, generator=None):
    """Reseeds before every draw, so that acceptance and correction repeat themselves."""
    return verify_draft(p, q, tokens, torch.Generator().manual_seed(0))


BROKEN_RULES = {
    "always accept": broken_rule(accept=lambda u, p, q: torch.ones_like(u, dtype=torch.bool)),
    "never accept, still take the residual": broken_rule(accept=lambda u, p, q: torch.zeros_like(u, dtype=torch.bool)),
    "p and q swapped": broken_rule(accept=lambda u, p, q: u * p < q),
    "accept with probability p": broken_rule(accept=lambda u, p, q: u < p),
    "residual from p alone": broken_rule(correct=lambda p, q: p),
    "residual |p − q|": broken_rule(correct=lambda p, q: (p - q).abs()),
    "residual q − p": broken_rule(correct=lambda p, q: (q - p).clamp(min=0)),
    "argmax correction": broken_rule(correct=lambda p, q: one_hot((p - q).clamp(min=0))),
    "argmax free token": broken_rule(free=one_hot),
    "reseeded before every draw": same_random_numbers,
}


@pytest.mark.parametrize("name", BROKEN_RULES)
def test_broken_rule_is_caught(name, monkeypatch):
    """All but one show in 800 texts; a free token that is always the likeliest takes more."""
    monkeypatch.setattr(speculative_decode, "verify_draft", BROKEN_RULES[name])
    samples = 2 * SAMPLES if name == "argmax free token" else 800
    assert agreement(Case(), settings(k=2), samples=samples) < 1e-6


def test_the_replacement_itself_is_right():
    """The control of the controls: `broken_rule` with nothing broken passes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speculative_decode, "verify_draft", broken_rule())
        assert agreement(Case(), settings(k=2)) > 1e-3


# --- a draft that ends where it is unsure -----------------------------------------------------------------------------


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
@pytest.mark.parametrize("bound", [0.3, 0.6])
def test_a_draft_that_ends_when_unsure_leaves_the_text(bound, overlapping):
    case, unsure = Case(overlapping), settings(k=4, stop_below=bound)
    assert agreement(case, unsure, samples=1000) > 1e-3
    drafted = Counter(len(block.drafted) for blocks in case.run(unsure, samples=50) for block in blocks)
    assert drafted[1] and drafted[4], "both endings are exercised"


class TakesTheUnsureTokenBack(Drafter):
    """Does not verify the token that made it stop: then whether a position is verified depends on its own token."""

    def propose(self, k, settings, stop, generator):
        tokens, probs = super().propose(k, settings, stop, generator)
        if len(tokens) == 0 or probs[-1, tokens[-1]] >= settings.stop_below:
            return tokens, probs
        tokens, probs = tokens[:-1], probs[:-1]
        if len(tokens):
            self.model.drop(1)
            self.unread = self.unread_for(int(tokens[-1]))
        else:
            self.unread = []
        return tokens, probs

    def unread_for(self, token):
        return [self.shared.draft_ids[self.shared.verifier_ids.index(token)]]


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
def test_taking_the_unsure_token_back_is_caught(overlapping):
    """The control of this control: with nothing below the bound it is the right loop."""
    unsure = settings(k=4, stop_below=0.6)
    assert agreement(Case(overlapping), unsure, drafter_class=TakesTheUnsureTokenBack, samples=3000) < 1e-6
    sure = settings(k=4, stop_below=1e-9)
    assert agreement(Case(overlapping), sure, drafter_class=TakesTheUnsureTokenBack, samples=500) > 1e-3


class NotRenormalised(Drafter):
    """Samples from the restricted q, but reports the values that q had before the restriction."""

    def propose(self, k, settings, stop, generator):
        masses = []
        feed = self.model.feed

        def noting(tokens, keep=1):
            logits = feed(tokens, keep)
            masses.append((logits[-1] / settings.temperature).softmax(-1)[self.draft_ids].sum())
            return logits

        self.model.feed = noting
        tokens, probs = super().propose(k, settings, stop, generator)
        self.model.feed = feed
        return tokens, probs * torch.stack(masses)[:, None] if masses else probs


class BeforeTemperature(Drafter):
    """Samples at the temperature asked for, but reports q at temperature 1."""

    def propose(self, k, settings, stop, generator):
        tokens, probs = super().propose(k, settings, stop, generator)
        return tokens, (probs.log() * settings.temperature).softmax(-1)


class ArgmaxDraft(Drafter):
    """Drafts the likeliest token, but reports the whole q."""

    def propose(self, k, settings, stop, generator):
        def first(weights, generator=None):
            return weights.argmax()[None]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speculative_decode, "draw", first)
            return super().propose(k, settings, stop, generator)


@pytest.mark.parametrize("broken", [NotRenormalised, BeforeTemperature, ArgmaxDraft])
def test_broken_draft_is_caught(broken):
    assert agreement(Case(overlapping=True), settings(temperature=0.4), drafter_class=broken) < 1e-6


class KeepsOneTooMany(CachedModel):
    def drop(self, count):
        super().drop(max(count - 1, 0))


class DropsOneTooMany(CachedModel):
    def drop(self, count):
        super().drop(count + 1)


@pytest.mark.parametrize("broken", [KeepsOneTooMany, DropsOneTooMany])
def test_verifier_cache_off_by_one_is_caught(broken):
    assert agreement(Case(), settings(), cached_class=broken) < 1e-6
    with pytest.raises(Problem):  # and at load, before any text
        broken(TableModel(1), set(range(VOCABULARY)))


def test_top_p_without_its_boundary_token_is_caught(monkeypatch):
    right = speculative_decode.to_probs

    def without_boundary(logits, settings):
        probs = right(logits, Settings(temperature=settings.temperature))
        ordered, order = probs.sort(descending=True)
        dropped = (ordered.cumsum(-1) >= settings.top_p) & (torch.arange(probs.shape[-1]) > 0)
        kept = probs.masked_fill(dropped.scatter(-1, order, dropped), 0)
        return kept / kept.sum(-1, keepdim=True)

    monkeypatch.setattr(speculative_decode, "to_probs", without_boundary)
    assert agreement(Case(), SETTINGS["top-p"]) < 1e-6


# --- the draft's cache: wrong contexts cost acceptance alone, so Σ min(p, q) is compared exactly -----------------------


def overlap_error(case: Case, settings: Settings, drafter_class=Drafter, samples=40) -> float:
    """The largest difference between Σ_x min(p, q) as the engine reports it and as the tables give it."""
    worst = 0.0
    for blocks in case.run(settings, samples=samples, drafter_class=drafter_class):
        text: tuple[int, ...] = ()
        for block in blocks:
            for position, reported in enumerate(block.overlap):
                if position > len(block.tokens) - 1:
                    continue
                history = [*case.prompt, *text, *block.tokens[:position]]
                p = reference_probs(case.verifier_model.logits(history), settings)
                in_draft_ids = case.shared.translate(history)
                q = reference_probs(case.draft.logits(in_draft_ids), settings, allowed=sorted(case.shared.draft_ids))
                exact = sum(
                    min(p[verifier], q[draft])
                    for draft, verifier in zip(case.shared.draft_ids, case.shared.verifier_ids, strict=True)
                )
                worst = max(worst, abs(exact - reported))
            text += block.tokens
    return worst


@pytest.mark.parametrize("overlapping", [False, True], ids=["identical", "overlapping"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_overlap_is_exact(k, overlapping):
    assert overlap_error(Case(overlapping), settings(k)) < 1e-5


class ForgetsOneTooMany(Drafter):
    def settle(self, drafted, accepted, next_token):
        super().settle(drafted, accepted, next_token)
        self.model.drop(1)


class KeepsARejectedToken(Drafter):
    def settle(self, drafted, accepted, next_token):
        super().settle(drafted, min(accepted + 1, drafted - 1) if accepted < drafted else accepted, next_token)


class SkipsItsLastDraft(Drafter):
    """After a full accept the draft has not read its own last token yet."""

    def settle(self, drafted, accepted, next_token):
        super().settle(drafted, accepted, next_token)
        self.unread = self.unread[-1:]


@pytest.mark.parametrize("broken", [ForgetsOneTooMany, KeepsARejectedToken, SkipsItsLastDraft])
def test_draft_cache_off_by_one_is_caught(broken):
    assert overlap_error(Case(), settings(k=2), drafter_class=broken, samples=200) > 0.05


# --- acceptance -------------------------------------------------------------------------------------------------------


def test_acceptance_is_the_overlap_of_p_and_q():
    """Leviathan et al. 2023, corollary 3.6: the probability to accept is Σ_x min(p, q)."""
    generator = torch.Generator().manual_seed(3)
    p, q = torch.rand(2, 2, 6, generator=generator).softmax(-1)
    accepted = sum(verify_draft(p, q[:1], torch.multinomial(q[0], 1, generator=generator), generator)[0] for _ in range(20_000))
    exact = float(torch.minimum(p[0], q[0]).sum())
    deviation = (exact * (1 - exact) / 20_000) ** 0.5
    assert abs(accepted / 20_000 - exact) < 4 * deviation


@pytest.mark.parametrize("k", [1, 2, 4])
def test_block_efficiency_has_its_closed_form(k):
    """Independent positions: E[tokens per block] = (1 − α^(K+1)) / (1 − α) (Leviathan et al. 2023, equation 1)."""
    case = Case()
    for model in (case.verifier_model, case.draft):
        model.row = lambda history, constant=model.table[0][0][0]: constant
    long = Settings(k=k, temperature=1.0, max_new_tokens=4000)
    blocks = next(case.run(long, samples=1))
    alpha = metrics(blocks)["expected_acceptance"]
    assert metrics(blocks)["block_efficiency"] == pytest.approx((1 - alpha ** (k + 1)) / (1 - alpha), rel=0.04)
    observed = sum(block.accepted for block in blocks) / sum(len(block.overlap) for block in blocks)
    assert observed == pytest.approx(alpha, abs=0.03)


def test_rule_handles_its_corners():
    p = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    q = torch.tensor([[1.0, 0.0]])
    assert verify_draft(p, q, torch.tensor([0])) == (0, 1), "p = 0 is never accepted"
    assert verify_draft(p[1:], q[:0], torch.tensor([], dtype=torch.long))[0] == 0, "K = 0 samples the verifier"
    same = torch.tensor([[0.3, 0.7], [0.0, 1.0]])
    assert verify_draft(same, same[:1], torch.tensor([1])) == (1, 1), "p = q always accepts"


# --- greedy, on real transformers models ------------------------------------------------------------------------------


def tiny(architecture: str, seed: int):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=7 if architecture == "phi3" else None,
        initializer_range=0.6,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "phi3"])
def test_greedy_equals_plain_greedy(architecture):
    """Token for token in float32; Phi-3 with a sliding window far shorter than the text."""
    larger, draft = tiny(architecture, 0), tiny(architecture, 1)
    with torch.no_grad():  # a draft that is often but not always right
        for ours, theirs in zip(draft.parameters(), larger.parameters(), strict=True):
            ours.copy_(theirs + 0.15 * ours)
    ids = tuple(range(32))
    shared = VocabularyMap("identical", ids, ids, lambda id: (id,))
    verifier, prompt = CachedModel(larger, set(ids)), [3, 14, 15, 9, 2, 6]
    plain = larger.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40, eos_token_id=None)
    expected = plain[0, len(prompt) :].tolist()
    for k in range(1, 6):
        drafter = Drafter(CachedModel(draft, set(ids)), shared, 32)
        greedy = Settings(k=k, temperature=0, max_new_tokens=40)
        with torch.inference_mode():
            prefill(verifier, prompt, drafter)
            blocks = list(decode(verifier, prompt[-1], greedy, NEVER, None, drafter))
        assert list(itertools.chain(*(block.tokens for block in blocks))) == expected
        assert 0 < metrics(blocks)["acceptance_rate"] < 1, "both outcomes are exercised"

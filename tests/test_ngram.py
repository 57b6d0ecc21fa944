"""The n-gram table as a draft: counts by hand, the cache's bookkeeping, the exactness suite, and the commands that name one."""

import json
import random
from types import SimpleNamespace

import pytest
import test_exactness
import torch
from test_evaluate import last_line, steps  # noqa: F401  (a fixture)
from test_exactness import BROKEN_RULES, NEVER, SETTINGS, VOCABULARY, Case, agreement, overlap_error, settings

import speculative_decode
from specdec import models, ngram
from specdec.adapters import adapter_digest, describe_adapter
from specdec.alignment import draft_probs, overlap_and_kept, verifier_probs
from specdec.answers import prompt_ids
from specdec.backend import CachedModel
from specdec.engine import Engine
from specdec.files import write_jsonl
from specdec.ngram import NgramModel, table_of
from specdec.provenance import read_row_file
from specdec.sampling import Settings
from specdec.terminal import Problem
from speculative_decode import Drafter, load_drafter, run_prompt

CPU = torch.device("cpu")
TEXTS = [[5, 6, 5, 7], [5, 6, 5, 6]]  # after a prompt that ends in 1, 2


def table(n: int = 3, texts=TEXTS, rows: int = 10, kind=NgramModel) -> NgramModel:
    return kind([([9, 1, 2], text) for text in texts], n, rows, CPU)


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


def test_the_prompt_is_a_context_and_no_text():
    """Both answers begin with 5 after 1, 2; the prompt itself is never drafted."""
    first = probs(table(), [0, 1, 2])
    after_2 = {5: (2 + 4 / 8) / 3, 6: 3 / 8 / 3, 7: 1 / 8 / 3}
    assert first == pytest.approx({5: (2 + after_2[5]) / 3, 6: after_2[6] / 3, 7: after_2[7] / 3})


def test_every_text_is_counted_behind_its_own_prompt():
    """After 3, 4 came 5, after 4 alone too, and after 3, 8 came 6: of a shorter prompt there is less to know."""
    model = NgramModel([([3, 4], [5]), ([4], [5]), ([3, 8], [6])], 3, 10, CPU)
    unigram = {5: 2 / 3, 6: 1 / 3}
    after_4 = {5: (2 + unigram[5]) / 3, 6: unigram[6] / 3}
    assert probs(model, [0, 4]) == pytest.approx(after_4)
    assert probs(model, [3, 4]) == pytest.approx({5: (1 + after_4[5]) / 2, 6: after_4[6] / 2})
    assert probs(model, [3]) == pytest.approx(unigram), "no text begins there"


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
    model, right = table(kind=broken), table()
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
    """The verifier of `Case`, and a draft counted in random texts; where it is `lacking`, token 3 stands in none of them."""

    ngram_class = NgramModel

    def __init__(self, n: int = 3, lacking: bool = False):
        super().__init__()
        draw = random.Random(4)
        weights = (4, 2, 1, 0 if lacking else 1)
        texts = [draw.choices(range(VOCABULARY), weights, k=12) for _ in range(30)]
        answers = [(self.prompt, text) for text in texts]
        self.make = lambda: self.ngram_class(answers, n, VOCABULARY, CPU)
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


@pytest.mark.parametrize("n, lacking", [(2, False), (3, True)])
def test_texts_are_the_verifiers_at_every_n(n, lacking):
    assert agreement(NgramCase(n, lacking), settings()) > 1e-3


def test_stop_tokens_inside_a_block():
    assert agreement(NgramCase(), settings(), frozenset({2})) > 1e-3


@pytest.mark.parametrize("name", BROKEN_RULES)
def test_broken_rule_is_caught(name, monkeypatch):
    monkeypatch.setattr(speculative_decode, "verify_draft", BROKEN_RULES[name])
    samples = 2000 if name == "argmax free token" else 800  # as for the other drafts
    assert agreement(NgramCase(), settings(k=2), samples=samples) < 1e-6


@pytest.mark.parametrize("broken", [test_exactness.BeforeTemperature, test_exactness.ArgmaxDraft])
def test_broken_draft_is_caught(broken):
    assert agreement(NgramCase(), settings(temperature=0.4), drafter_class=broken, samples=800) < 1e-6


@pytest.mark.parametrize("n, k", [(1, 3), (2, 3), (3, 1), (3, 5)])
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


# --- named by an answers file -----------------------------------------------------------------------------------------

PROMPT = "What screen reader?"


def answers_file(file, verifier: str, texts: list[list[int]], prompt: str = "another question {}?", **conditions) -> str:
    """An answers file as generate_answers.py writes it."""
    conditions = {"verifier": verifier, "quantization": "none", "max_new_tokens": 40, **conditions}
    header = {"run_id": "0", "command": "", "conditions": conditions, "environment": {}}
    rows = []
    for number, text in enumerate(texts):
        row = {"prompt": prompt.format(number), "temperature": 0.7, "top_p": 1.0, "token_ids": text, "probs": None, "seed": 42}
        rows.append({**row, "run_id": "0"})
    write_jsonl(file, [header, *rows])
    return str(file)


@pytest.fixture
def counted(tiny, tmp_path, monkeypatch):
    """An engine in float32 over two vocabularies, and a file of answers of its verifier."""
    monkeypatch.setattr(models, "compute_dtype", lambda: torch.float32)
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)))
    runs = [run_prompt(engine, PROMPT, "verifier", Settings(max_new_tokens=40), seed) for seed in range(6)]
    return engine, answers_file(tmp_path / "answers.jsonl", tiny.overlapping, [run.token_ids for run in runs])


def test_a_name_says_the_file_and_n():
    assert [table_of(text) for text in (None, "adapters/kl", "a.jsonl:0", "a.jsonl:12")] == [None] * 4
    assert [str(part) for part in table_of("some/a.jsonl")] == ["some/a.jsonl", "3"]
    assert [str(part) for part in table_of("some/a.jsonl:2")] == ["some/a.jsonl", "2"]


def test_live_and_paired_give_the_same_overlap(counted):
    """At every position that live decoding tested; the table reads the verifier's prompt, whatever the pair's draft reads."""
    engine, file = counted
    drafter, state = load_drafter(engine, file)
    drawn = Settings(max_new_tokens=40)
    result = run_prompt(engine, PROMPT, "trigram", drawn, 3, drafter)
    read, answer = engine.prompt_ids(PROMPT, drawn), result.token_ids
    p = verifier_probs(engine.verifier, read[0], answer, drawn)
    q = draft_probs(drafter.model, drafter.shared, drafter.own_prompt(*read), answer, engine.rows, drawn)
    paired = overlap_and_kept(p, q, answer)[0].tolist()
    position, compared = 0, 0
    for block in result.blocks:
        for offset, value in enumerate(block.overlap[: len(block.tokens)]):
            assert value == pytest.approx(paired[position + offset], abs=1e-4)
            compared += 1
        position += len(block.tokens)
    assert compared >= 20 and state == "table" and drafter.own_prompt(*read) == read[0] != read[1]
    seen = sorted({token for text in read_row_file(table_of(file)[0])[1] for token in text["token_ids"]})
    assert q.sum(-1).tolist() == pytest.approx([1.0] * len(answer), abs=1e-4) and q[:, seen].sum() == pytest.approx(len(answer))


def test_the_first_token_is_known_from_the_prompts_end(counted):
    """Every answer began after the same last tokens of the template, so the first q is nearly the answers' first tokens."""
    engine, file = counted
    drafter, _ = load_drafter(engine, f"{file}:9")
    first = [row["token_ids"][0] for row in read_row_file(table_of(file)[0])[1]]
    read = engine.prompt_ids(PROMPT, Settings())
    q = draft_probs(drafter.model, drafter.shared, read[0], first[:1], engine.rows, Settings(temperature=1.0))
    assert q[0, sorted(set(first))].sum() > 0.9


@pytest.mark.parametrize("how", [{}, {"system": "Be brief."}, {"raw": True}], ids=["template", "system", "raw"])
def test_answers_are_counted_behind_their_own_prompts(counted, tmp_path, how):
    """After the prompt as its header says it was written: a raw one ends in its own last token, not in the template's."""
    engine, _ = counted
    first, then = 40, 41
    file = answers_file(tmp_path / "written.jsonl", engine.pair.verifier.id, [[first], [then]], **how)
    drafter, _ = load_drafter(engine, f"{file}:2")
    prompts = [prompt_ids(engine, {"prompt": f"another question {number}?"}, Settings(), **how)[0] for number in range(2)]
    assert {tuple(prompt[-1:]) in drafter.model.followed for prompt in prompts} == {True}
    contexts = {context for context in drafter.model.followed if context}
    assert contexts == {tuple(prompt[-1:]) for prompt in prompts}, "and after nothing else"
    assert probs(drafter.model, prompts[0]) == pytest.approx({first: 0.5, then: 0.5})


def test_the_answers_are_read_once(tiny, tmp_path, monkeypatch):
    """Before models load, where they may be refused; two tables of one file are counted from what was read then."""
    read = []
    real = ngram.prompted_answers

    def noting(file, **expected):
        read.append(file.name)
        return real(file, **expected)

    monkeypatch.setattr(ngram, "prompted_answers", noting)
    file = answers_file(tmp_path / "answers.jsonl", tiny.overlapping, [[40, 41]])
    engine = Engine(models.Pair("custom", models.Model(tiny.draft), models.Model(tiny.overlapping)), [file, None, f"{file}:2"])
    (tmp_path / "answers.jsonl").unlink()
    assert [load_drafter(engine, name)[0].model.n for name in (file, f"{file}:2")] == [3, 2]
    assert read == ["answers.jsonl"]


def test_greedy_text_is_the_verifiers(counted):
    engine, file = counted
    drafter, _ = load_drafter(engine, file)
    greedy = Settings(temperature=0, max_new_tokens=40)
    plain = run_prompt(engine, PROMPT, "verifier", greedy, 0).token_ids
    drafted = run_prompt(engine, PROMPT, "trigram", greedy, 0, drafter)
    assert drafted.token_ids == plain and len(drafted.blocks) <= len(plain)


def test_compare_takes_tables_beside_the_base_draft(cli, tiny, counted, tmp_path):
    drafts = ["base", f"trigram={counted[1]}", f"bigram={counted[1]}:2"]
    models_used = ["--draft", tiny.draft, "--verifier", tiny.overlapping, "--max-new-tokens", 24]
    command = ["--mode", "compare", "--drafts", *drafts, "--prompt", PROMPT, "--json", "-", *models_used]
    status, out, err = cli(speculative_decode, *command)
    assert status == 0, err
    rows = json.loads(out)["runs"]
    states = [(row["draft"], row["adapter"]) for row in rows]
    assert states == [("verifier", "none"), ("base", "none"), ("trigram", "table"), ("bigram", "table")]
    assert all(row["acceptance_rate"] is not None for row in rows[1:])


def test_the_evaluation_takes_tables(steps, tiny, tmp_path, monkeypatch):  # noqa: F811
    """Paired, live and report; headers tell which answers and which n, and a table has no parameters to read."""
    monkeypatch.chdir(tmp_path)
    assert steps("answers")[0] == 0
    draw = random.Random(0)
    texts = [[draw.randrange(3, 330) for _ in range(30)] for _ in range(3)]
    file = answers_file(tmp_path / "other.jsonl", tiny.overlapping, texts)
    drafts = ("base", f"trigram={file}", f"bigram={file}:2")
    for step in ("paired", "live", "report"):
        assert steps(step, drafts=drafts)[0] == 0
    for step in ("paired", "live"):
        headers, rows = read_row_file(tmp_path / f"{step}.jsonl")
        digests = [next(iter(headers.values()))["conditions"]["adapters"][name] for name in ("trigram", "bigram")]
        assert digests == [adapter_digest(file), adapter_digest(f"{file}:2")] and digests[0] != digests[1]
    report = json.loads((tmp_path / "acceptance.json").read_text())
    assert {report["drafts"][name]["n"] for name in ("trigram", "bigram")} == {2, 3}
    assert describe_adapter(f"{file}:2") == {"path": f"{file}:2", "loss": "counts", "n": 2}
    mbsu, tau = (report[metric]["3"]["at"]["means"] for metric in ("mbsu", "tau"))
    assert mbsu["trigram"] == tau["trigram"] and mbsu["base"] < tau["base"]
    answers_file(tmp_path / "other.jsonl", tiny.overlapping, texts[1:])
    assert "other adapters (trigram)" in last_line(steps("paired", drafts=drafts))
    status, _, err = steps("report", drafts=drafts)
    assert status == 0 and "another one than was measured" in err


def test_a_table_that_knows_the_measured_texts_is_refused(steps, tmp_path):  # noqa: F811
    assert steps("answers")[0] == 0
    drafts = ("base", f"trigram={tmp_path / 'answers.jsonl'}")
    for step in ("paired", "live"):
        assert "trigram was counted from answers to 4 of the 4 prompts" in last_line(steps(step, drafts=drafts))
        assert not (tmp_path / f"{step}.jsonl").exists()


DAMAGED = {
    "of another verifier": (lambda file: answers_file(file, "another/verifier", TEXTS), "another verifier"),
    "missing": (lambda file: None, "no answers at"),
    "empty": (lambda file: file.write_text(""), "holds no answers"),
    "a header alone": (lambda file: answers_file(file, "VERIFIER", []), "holds no answers"),
    "half a line": (lambda file: file.write_text('{"run_id": '), "not JSON"),
    "no header": (lambda file: write_jsonl(file, [{"prompt": "a", "token_ids": [5]}]), "does not say of which verifier"),
    "no numbers": (lambda file: answers_file(file, "VERIFIER", [[5], [5, "6"]]), "answer 2 has token_ids that are none"),
    "below zero": (lambda file: answers_file(file, "VERIFIER", [[-1]]), "answer 1 has token_ids that are none"),
    "a folder": (lambda file: file.mkdir(), "a folder, where a file is meant"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_answers_that_cannot_be_counted_are_refused_before_any_model(cli, tiny, tmp_path, monkeypatch, name):
    make, fragment = DAMAGED[name]
    file = tmp_path / "answers.jsonl"
    make(file)
    if file.is_file():
        file.write_text(file.read_text().replace("VERIFIER", tiny.overlapping))
    monkeypatch.setattr("specdec.engine.load_model", None)
    drafts = ["--drafts", "base", f"trigram={file}"]
    models_used = ["--draft", tiny.draft, "--verifier", tiny.overlapping]
    refused = cli(speculative_decode, "--mode", "compare", "--prompt", PROMPT, *drafts, *models_used)
    assert fragment in last_line(refused)

"""Where in an answer does tuning change acceptance? By position in the text, and by the kind of token.

Rows of `evaluate_acceptance.py paired` hold, for every token x of the verifier's own answer, the probability
min(1, q(x) / p(x)) that it came from the draft. Its expectation over x ~ p is Σ min(p, q), so means of it over tokens of one
kind say how acceptance changed there, without reading any model again. No torch.

A study's positions.py says which drafts it asks for, and writes what `analysed` returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from specdec.comparison import Measured, joined
from specdec.intervals import mean_with_interval
from specdec.models import QWEN_CODER
from specdec.provenance import provenance
from specdec.terminal import Problem
from specdec.weights import converted

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BUCKETS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 140), (141, 200))
STOP = "the stop token"
LIST_MARKER = re.compile(r"\s*(?:[-*•#]+|\d+|\d+\.|\d+\)|[-*•] \*\*|\*\*)\s*")  # a whole line so far
FEWEST_PROMPTS = 8  # a kind of token that fewer prompts have is left out
DOMAINS, SEED = ("at", "general"), 42


def answers_tokenizer() -> Tokenizer:
    """That of the verifier that wrote the answers on a laptop, Qwen2.5-Coder-1.5B, from its converted folder; without torch."""
    from tokenizers import Tokenizer

    assert QWEN_CODER.gguf is not None
    return Tokenizer.from_file(str(converted(QWEN_CODER.id, QWEN_CODER.gguf) / "tokenizer.json"))


def token_kind(text: str, before: str, inside_name: bool) -> str:
    """The kind of a token `text` behind the answer's text `before`."""
    line = before.rpartition("\n")[2] + text
    if "\n" in text:
        return "line break"
    if inside_name:
        return "name of a tool or standard"
    if LIST_MARKER.fullmatch(line) or text.strip() in ("**", "**:", ":**"):
        return "list or heading marker"
    if not re.search(r"\w", text):
        return "punctuation"
    if text.strip().isdigit():
        return "digits"
    begins = text[:1].isspace() or not before[-1:].isalnum()
    return "beginning of a word" if begins else "rest of a word"


def kinds_of(pieces: list[str], names: Iterable[re.Pattern]) -> list[str]:
    """The kind of every token of an answer, given their texts; the stop token's text is empty.

    Args:
        names: patterns of the names of tools and standards, a kind of their own.
    """
    answer = "".join(pieces)
    named = [False] * len(answer)
    for pattern in names:
        for found in pattern.finditer(answer):
            named[found.start() : found.end()] = [True] * (found.end() - found.start())
    kinds, start = [], 0
    for piece in pieces:
        end = start + len(piece)
        inside = any(named[start + len(piece) - len(piece.lstrip()) : end])
        kinds.append(token_kind(piece, answer[:start], inside) if piece else STOP)
        start = end
    return kinds


def bucket_of(position: int) -> str:
    """`position` counts from 0; the bucket's name counts from 1."""
    for first, last in BUCKETS:
        if position < last:
            return f"{first} to {last}"
    raise Problem(
        f"an answer has more than {BUCKETS[-1][1]} tokens, and no group of positions is so far back. Add one to BUCKETS."
    )


def compare(rows: list[dict], groups: list[list[str]], draft: str, seed: int) -> dict[str, dict]:
    """Per group of tokens: its share of all tokens, the base draft's mean, the draft's change with its interval."""
    total = sum(map(len, groups))
    result = {}
    for group in dict.fromkeys(name for of_row in groups for name in of_row):
        base, changes, count = [], [], 0
        for row, of_row in zip(rows, groups, strict=True):
            indices = [index for index, name in enumerate(of_row) if name == group]
            if indices:
                of_base, of_draft = (sum(row["kept"][name][index] for index in indices) for name in ("base", draft))
                base.append(of_base / len(indices))
                changes.append((of_draft - of_base) / len(indices))
                count += len(indices)
        if len(changes) >= FEWEST_PROMPTS:
            result[group] = {"share": count / total, "prompts": len(changes), "base": sum(base) / len(base),
                             "change": mean_with_interval(changes, seed)}  # fmt: skip
    return result


def kinds_by_row(
    rows: list[dict], answers: dict[str, list[int]], tokenizer: Tokenizer, names: Iterable[re.Pattern]
) -> list[list[str]]:
    """The kind of every token of the answer to every row's prompt.

    Args:
        answers: prompt → the verifier's token ids.
        tokenizer: the verifier's.
        names: as in `kinds_of`.
    """
    patterns = list(names)
    kinds = []
    for row in rows:
        pieces = [tokenizer.decode([token]) for token in answers[row["prompt"]]]  # special tokens decode to nothing
        kinds.append(kinds_of(pieces, patterns))
    return kinds


def where(rows: list[dict], kinds: list[list[str]], drafts: list[str], seed: int) -> dict:
    """Per draft the change against base, by position in the answer and by the kind of token.

    Args:
        rows: one a prompt, as `specdec.comparison.joined` gives them; each holds base and all of `drafts`.
        kinds: of `kinds_by_row`.
    """
    buckets = [[bucket_of(position) for position in range(len(of_row))] for of_row in kinds]
    return {
        "prompts": len(rows),
        "by_position": {name: compare(rows, buckets, name, seed) for name in drafts},
        "by_kind": {name: compare(rows, kinds, name, seed) for name in drafts},
    }


def out_of_reach(rows: list[dict], kinds: list[list[str]], drafts: list[str]) -> dict[str, dict[str, int]]:
    """Kind of token → how many the answers hold, and how many of them `drafts`, of one vocabulary, have no token for.

    There q is zero, whatever the draft learnt. Any of the drafts may give it; empty where the rows, of an earlier version of
    evaluate_acceptance.py, hold no q.
    """
    counts: dict[str, dict[str, int]] = {}
    for row, of_row in zip(rows, kinds, strict=True):
        known = [row["q"][name] for name in drafts if name in row["q"]]
        if not known:
            continue
        highest = [max(values) for values in zip(*known, strict=True)]
        for kind, q in zip(of_row, highest, strict=True):
            count = counts.setdefault(kind, {"tokens": 0, "without": 0})
            count["tokens"] += 1
            count["without"] += q == 0
    return counts


def analysed(
    measured: Measured,
    answers: list[dict],
    drafts: list[str],
    tokenizer: Tokenizer,
    names: Iterable[re.Pattern],
    domains: Iterable[str] = DOMAINS,
) -> dict:
    """What positions.json holds: by domain the changes of `where`, and `out_of_reach`, with what measured the rows.

    Args:
        measured: rows of `evaluate_acceptance.py paired`; those of the large sets that hold base and all of `drafts` count.
        answers: of `specdec.answers.read_answers`; those at the temperature of the rows are read.
        tokenizer, names: as in `kinds_by_row`.

    Raises:
        Problem: no such row of a domain.
    """
    patterns, temperature = list(names), measured.conditions.get("temperature")
    tokens = {row["prompt"]: row["token_ids"] for row in answers if row["temperature"] == temperature}
    result: dict = {
        **provenance({"buckets": [list(bounds) for bounds in BUCKETS], "seed": SEED}),
        "measured": {"paired": measured.environments()},
    }
    for domain in domains:
        found = [row for row in joined(measured.rows) if row["domain"] == domain and row["source"] != "study0"]
        rows = [row for row in found if {"base", *drafts} <= row["kept"].keys()]
        if not rows:
            raise Problem(
                f"no {domain} rows of {', '.join(drafts)} in {measured.file}. Run evaluate_acceptance.py paired first."
            )
        kinds = kinds_by_row(rows, tokens, tokenizer, patterns)
        result[domain] = where(rows, kinds, drafts, SEED)
        if lacking := out_of_reach(rows, kinds, drafts):
            result[domain]["out_of_reach"] = lacking
    return result


def print_kinds(found: dict[str, dict]) -> None:
    """A line a kind of token, of one draft's `by_kind`."""
    for kind, change in found.items():
        print(f"{kind}: {change['share']:.1%} of tokens, {change['base']:.3f} {change['change']['mean']:+.4f}")

"""Where in an answer does tuning change acceptance? By position in the text, and by the kind of token.

Reads the paired rows and the stored answers, writes positions.json beside them. Each row holds, for every token x of the
verifier's own answer, the probability min(1, q(x) / p(x)) that it came from the draft. Its expectation over x ~ p is
Σ min(p, q), so means of it over tokens of one kind say how acceptance changed there, without reading any model again.

The paper explains its split between query types by a "formatting mismatch": list markers and line breaks would then lose most.

    python -m studies.preference.positions
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from domains.at import names
from specdec.comparison import PAIRED_KEYS, Measured, joined
from specdec.files import read_jsonl
from specdec.intervals import mean_with_interval
from specdec.models import QWEN_CODER
from specdec.provenance import is_header, provenance
from specdec.report import load
from specdec.terminal import Problem, put_json, run
from specdec.weights import converted

RESULTS = Path("studies/preference/results")
BUCKETS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 140), (141, 200))
STOP = "the stop token"
LIST_MARKER = re.compile(r"\s*(?:[-*•#]+|\d+|\d+\.|\d+\)|[-*•] \*\*|\*\*)\s*")  # a whole line so far
FEWEST_PROMPTS = 8  # a kind of token that fewer prompts have is left out


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


def kinds_of(pieces: list[str]) -> list[str]:
    """The kind of every token of an answer, given their texts; the stop token's text is empty."""
    answer = "".join(pieces)
    named = [False] * len(answer)
    for patterns in names().values():
        for pattern in patterns.values():
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
    first, last = next(bounds for bounds in BUCKETS if bounds[0] <= position + 1 <= bounds[1])
    return f"{first} to {last}"


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


def answer_pieces(token_ids: list[int], tokenizer) -> list[str]:
    return [tokenizer.decode([token]) for token in token_ids]  # special tokens decode to nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS / "positions.json"), help="(default %(default)s)")
    args = parser.parse_args()

    from tokenizers import Tokenizer

    assert QWEN_CODER.gguf is not None
    folder = converted(QWEN_CODER.id, QWEN_CODER.gguf)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    answers = {row["prompt"]: row["token_ids"] for row in read_jsonl(RESULTS / "answers.jsonl") if not is_header(row)}
    measured = Measured(RESULTS / "paired.jsonl", PAIRED_KEYS)
    drafts = [name for name in load(RESULTS / "acceptance.json")["drafts"] if name != "base"]
    environments = [header["environment"] for header in measured.headers.values()]
    result: dict = {**provenance({"buckets": [list(bounds) for bounds in BUCKETS], "seed": 42}),
                    "measured": {"paired": environments},}  # fmt: skip
    for domain in ("at", "general"):
        rows = [row for row in joined(measured.rows) if row["domain"] == domain and row["source"] != "study0"]
        if not rows:
            raise Problem(f"no {domain} rows in {measured.file}. Run evaluate_acceptance.py paired first.")
        kinds = [kinds_of(answer_pieces(answers[row["prompt"]], tokenizer)) for row in rows]
        buckets = [[bucket_of(position) for position in range(len(answers[row["prompt"]]))] for row in rows]
        result[domain] = {"prompts": len(rows), "by_position": {name: compare(rows, buckets, name, 42) for name in drafts},
                          "by_kind": {name: compare(rows, kinds, name, 42) for name in drafts}}  # fmt: skip
    put_json(result, args.json)
    for group, found in result["at"]["by_kind"][drafts[0]].items():
        print(f"{group}: {found['share']:.1%} of tokens, {found['base']:.3f} {found['change']['mean']:+.4f}")


if __name__ == "__main__":
    run(main)

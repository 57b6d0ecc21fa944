"""Where in an answer does the draft gain by distillation? By position in the text, and by the kind of token.

Reads the paired rows and the stored answers, writes positions.json beside the rows; `specdec.positions` says what is counted.
Drafts are those that stay in the repository (adapters/, final_adapter), on the prompts that all of them were measured on.

    python -m studies.distillation.positions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from domains.at import names
from specdec.answers import read_answers
from specdec.comparison import PAIRED_KEYS, Measured, joined
from specdec.positions import BUCKETS, answers_tokenizer, kinds_by_row, where
from specdec.provenance import provenance
from specdec.terminal import Problem, put_json, run

HERE = Path("studies/distillation")
RESULTS, ARMS = HERE / "results", HERE / "drafts"
ANSWERS = Path("studies/preference/results/answers.jsonl")


def lasting(drafts: dict[str, str | None]) -> list[str]:
    """The drafts with a folder of their own that is none of the study's arms; a table of n-grams has a file."""
    return [name for name, path in drafts.items() if path and not path.endswith(".jsonl") and ARMS not in Path(path).parents]


def out_of_reach(rows: list[dict], kinds: list[list[str]], drafts: list[str]) -> dict[str, dict[str, int]]:
    """Kind of token → how many the answers hold, and how many of them `drafts`, of one vocabulary, have no token for.

    There q is zero, whatever the draft learnt. Rows of earlier versions hold no q; any of the drafts may give it.
    """
    counts: dict[str, dict[str, int]] = {}
    for row, of_row in zip(rows, kinds, strict=True):
        known = [row["q"][name] for name in drafts if name in row["q"]]
        highest = [max(values) for values in zip(*known, strict=True)]
        for kind, q in zip(of_row, highest, strict=True):
            count = counts.setdefault(kind, {"tokens": 0, "without": 0})
            count["tokens"] += 1
            count["without"] += q == 0
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS / "positions.json"), help="(default %(default)s)")
    args = parser.parse_args()
    tokenizer = answers_tokenizer()
    measured = Measured(RESULTS / "paired.jsonl", PAIRED_KEYS)
    temperature = measured.conditions["temperature"]
    answers = {row["prompt"]: row["token_ids"] for row in read_answers(ANSWERS) if row["temperature"] == temperature}
    drafts = lasting(measured.drafts)
    result: dict = {
        **provenance({"buckets": [list(bounds) for bounds in BUCKETS], "seed": 42}),
        "measured": {"paired": measured.environments()},
    }
    patterns = [pattern for kind in names().values() for pattern in kind.values()]
    for domain in ("at", "general"):
        found = [row for row in joined(measured.rows) if row["domain"] == domain and row["source"] != "study0"]
        rows = [row for row in found if {"base", *drafts} <= row["kept"].keys()]
        if not rows:
            raise Problem(
                f"no {domain} rows of {', '.join(drafts)} in {measured.file}. Run evaluate_acceptance.py paired first."
            )
        kinds = kinds_by_row(rows, answers, tokenizer, patterns)
        result[domain] = {**where(rows, kinds, drafts, seed=42), "out_of_reach": out_of_reach(rows, kinds, drafts)}
    put_json(result, args.json)
    for group, change in result["at"]["by_kind"][drafts[-1]].items():
        print(f"{group}: {change['share']:.1%} of tokens, {change['base']:.3f} {change['change']['mean']:+.4f}")


if __name__ == "__main__":
    run(main)

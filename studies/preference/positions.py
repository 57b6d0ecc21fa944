"""Where in an answer does tuning change acceptance? By position in the text, and by the kind of token.

Reads the paired rows and the stored answers, writes positions.json beside them; `specdec.positions` says what is counted.

The paper explains its split between query types by a "formatting mismatch": list markers and line breaks would then lose most.

    python -m studies.preference.positions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from domains.at import names
from specdec.comparison import PAIRED_KEYS, Measured, joined
from specdec.files import read_jsonl
from specdec.positions import BUCKETS, answers_tokenizer, kinds_by_row, where
from specdec.provenance import is_header, provenance
from specdec.report import load
from specdec.terminal import Problem, put_json, run

RESULTS = Path("studies/preference/results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS / "positions.json"), help="(default %(default)s)")
    args = parser.parse_args()
    tokenizer = answers_tokenizer()
    answers = {row["prompt"]: row["token_ids"] for row in read_jsonl(RESULTS / "answers.jsonl") if not is_header(row)}
    measured = Measured(RESULTS / "paired.jsonl", PAIRED_KEYS)
    drafts = [name for name in load(RESULTS / "acceptance.json")["drafts"] if name != "base"]
    environments = [header["environment"] for header in measured.headers.values()]
    result: dict = {**provenance({"buckets": [list(bounds) for bounds in BUCKETS], "seed": 42}),
                    "measured": {"paired": environments},}  # fmt: skip
    patterns = [pattern for kind in names().values() for pattern in kind.values()]
    for domain in ("at", "general"):
        rows = [row for row in joined(measured.rows) if row["domain"] == domain and row["source"] != "study0"]
        if not rows:
            raise Problem(f"no {domain} rows in {measured.file}. Run evaluate_acceptance.py paired first.")
        result[domain] = where(rows, kinds_by_row(rows, answers, tokenizer, patterns), drafts, seed=42)
    put_json(result, args.json)
    for group, found in result["at"]["by_kind"][drafts[0]].items():
        print(f"{group}: {found['share']:.1%} of tokens, {found['base']:.3f} {found['change']['mean']:+.4f}")


if __name__ == "__main__":
    run(main)

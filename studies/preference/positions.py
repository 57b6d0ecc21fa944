"""Where in an answer does tuning change acceptance? By position in the text, and by the kind of token.

Reads the paired rows and the stored answers, writes positions.json beside them; `specdec.positions` says what is counted.

The paper explains its split between query types by a "formatting mismatch": list markers and line breaks would then lose most.

    python -m studies.preference.positions
    python -m studies.preference.positions --results-dir studies/preference/results/small/qwen-coder --domains at
"""

from __future__ import annotations

import argparse
from pathlib import Path

from domains.at import names
from specdec.answers import read_answers
from specdec.comparison import PAIRED_KEYS, Measured
from specdec.positions import DOMAINS, analysed, answers_tokenizer, print_kinds
from specdec.terminal import put_json, run

RESULTS = Path("studies/preference/results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", type=Path, default=RESULTS, metavar="DIR", help="(default %(default)s)")
    parser.add_argument("--domains", nargs="+", default=DOMAINS, metavar="NAME", help="(default at general)")
    parser.add_argument("--json", metavar="FILE", help="(default: positions.json in DIR)")
    args = parser.parse_args()
    measured = Measured(args.results_dir / "paired.jsonl", PAIRED_KEYS)
    drafts = [name for name in measured.drafts if name != "base"]
    patterns = [pattern for kind in names().values() for pattern in kind.values()]
    answers = read_answers(RESULTS / "answers.jsonl")
    result = analysed(measured, answers, drafts, answers_tokenizer(), patterns, args.domains)
    put_json(result, args.json or str(args.results_dir / "positions.json"))
    print_kinds(result[args.domains[0]]["by_kind"][drafts[0]])


if __name__ == "__main__":
    run(main)

"""Where in an answer does tuning change acceptance? By position in the text, and by the kind of token.

Reads the paired rows and the stored answers, writes positions.json beside them; `specdec.positions` says what is counted.

The paper explains its split between query types by a "formatting mismatch": list markers and line breaks would then lose most.

    python -m studies.preference.positions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from domains.at import names
from specdec.answers import read_answers
from specdec.comparison import PAIRED_KEYS, Measured
from specdec.positions import analysed, answers_tokenizer, print_kinds
from specdec.terminal import put_json, run

RESULTS = Path("studies/preference/results")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS / "positions.json"), help="(default %(default)s)")
    args = parser.parse_args()
    measured = Measured(RESULTS / "paired.jsonl", PAIRED_KEYS)
    drafts = [name for name in measured.drafts if name != "base"]
    patterns = [pattern for kind in names().values() for pattern in kind.values()]
    result = analysed(measured, read_answers(RESULTS / "answers.jsonl"), drafts, answers_tokenizer(), patterns)
    put_json(result, args.json)
    print_kinds(result["at"]["by_kind"][drafts[0]])


if __name__ == "__main__":
    run(main)

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
from specdec.comparison import PAIRED_KEYS, Measured
from specdec.positions import analysed, answers_tokenizer, print_kinds
from specdec.terminal import put_json, run

HERE = Path("studies/distillation")
RESULTS, ARMS = HERE / "results", HERE / "drafts"
ANSWERS = Path("studies/preference/results/answers.jsonl")


def lasting(drafts: dict[str, str | None]) -> list[str]:
    """The drafts with a folder of their own that is none of the study's arms; a table of n-grams has a file."""
    return [name for name, path in drafts.items() if path and not path.endswith(".jsonl") and ARMS not in Path(path).parents]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", default=str(RESULTS / "positions.json"), help="(default %(default)s)")
    args = parser.parse_args()
    measured = Measured(RESULTS / "paired.jsonl", PAIRED_KEYS)
    drafts = lasting(measured.drafts)
    patterns = [pattern for kind in names().values() for pattern in kind.values()]
    result = analysed(measured, read_answers(ANSWERS), drafts, answers_tokenizer(), patterns)
    put_json(result, args.json)
    print_kinds(result["at"]["by_kind"][drafts[-1]])


if __name__ == "__main__":
    run(main)

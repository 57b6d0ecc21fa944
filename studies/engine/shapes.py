"""What the paper's pair costs on this GPU: memory, and the time of a pass, of models of its shapes with random weights.

Phi-3's weights are not needed for that: a pass over random numbers takes as long as one over trained ones. What they cannot
tell is acceptance; tables.py asks from which accepted/drafted on a draft would pay.

    python -m studies.engine.shapes --json studies/engine/results/shapes.json
"""

from __future__ import annotations

import argparse

from specdec.provenance import provenance
from specdec.shapes import COMMON, LENGTHS, SHAPES, measured
from specdec.terminal import Problem, check_outputs, positive_int, put_json, random_seed, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=positive_int, default=1000, help="tokens in both caches (default 1000)")
    parser.add_argument("--repeats", type=positive_int, default=30, help="timed passes of a length (default 30)")
    parser.add_argument("--seed", type=random_seed, default=42, help="of the random weights and tokens (default 42)")
    parser.add_argument("--json", required=True, metavar="FILE", help="write the result to FILE, or - for stdout")
    args = parser.parse_args()
    check_outputs(args.json)
    if args.context < 8 * max(LENGTHS):
        raise Problem(
            f"--context must be {8 * max(LENGTHS)} or more: the longest pass reads {max(LENGTHS)} tokens of an eighth."
        )
    found = measured(args.context, args.repeats, args.seed)
    conditions = {"shapes": SHAPES, **COMMON, "context": args.context, "repeats": args.repeats, "seed": args.seed}
    put_json({**provenance(conditions), "models": found}, args.json)


if __name__ == "__main__":
    run(main)

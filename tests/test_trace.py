"""What a trace keeps of a run, and the metrics that follow from its blocks alone."""

import json
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from specdec.files import read_jsonl
from specdec.provenance import is_header
from specdec.trace import Block, Run, acceptance_by_position, block_row, read_block, summarize

ROOT = Path(__file__).resolve().parents[1]


def block(drafted, accepted, emitted, overlap=(), **times) -> Block:
    """A block of the tokens 1, 2, … that emits the first `emitted` of them."""
    seconds = {"seconds": 0.5, "draft_seconds": 0.2, "verify_seconds": 0.25, **times}
    ids = tuple(range(1, drafted + 1))
    return Block(ids, (), (), tuple(overlap), accepted, 99, (*ids[:accepted], 99)[:emitted], **seconds)


def run_of(*blocks, **changes) -> Run:
    return Run(**{"prompt": "p", "draft": "base", "seed": 1, "text": "", "prefill_seconds": 1.0, "blocks": blocks, **changes})


def test_a_row_is_the_block():
    made = block(3, 1, 2, (0.9, 0.1))
    again = json.loads(json.dumps(block_row(made)))
    assert read_block({**again, "run": 4, "drafted_text": ["a"]}) == made


def test_blocks_of_earlier_versions_are_read():
    """They know neither rejected ids nor p, q and times: those are None, and what was accepted is still told."""
    old = {field.name: None for field in fields(Block)} | {"drafted": [7, None, None], "accepted": 1, "tokens": [7, 8]}
    found = read_block(json.loads(json.dumps(old)))
    assert found.drafted == (7, None, None) and found.p is None and found.seconds is None
    assert acceptance_by_position([found]) == [1.0, 0.0]


@pytest.mark.parametrize("name", [field.name for field in fields(Block)])
def test_a_row_without_a_field_is_no_block(name):
    row = block_row(block(2, 1, 2))
    del row[name]
    with pytest.raises(KeyError, match=name):
        read_block(row)


def test_the_metrics_of_a_run():
    """9 drafted, 4 accepted, 7 tokens in 3 passes; seconds are the prefill's and the blocks'."""
    blocks = (block(4, 2, 3, (0.9, 0.8, 0.1)), block(4, 2, 3, (0.7, 0.6, 0.5)), block(1, 0, 1, (0.4,)))
    found = summarize(run_of(*blocks))
    assert (found["tokens"], found["drafted"], found["accepted"], found["blocks"]) == (7, 9, 4, 3)
    assert found["acceptance_rate"] == pytest.approx(4 / 9) and found["block_efficiency"] == pytest.approx(7 / 3)
    assert found["expected_acceptance"] == pytest.approx(4.0 / 7)
    assert found["acceptance_by_position"] == pytest.approx([2 / 3, 1.0, 0.0])
    assert found["seconds"] == pytest.approx(2.5) and found["tokens_per_second"] == pytest.approx(7 / 2.5)
    assert found["other_seconds"] == pytest.approx(3 * 0.05)


def test_a_run_without_blocks_has_no_rates():
    """Stopped in the prefill: nothing divides by zero."""
    found = summarize(run_of(prefill_seconds=0.0, interrupted=True))
    rates = ("tokens_per_second", "acceptance_rate", "expected_acceptance", "block_efficiency")
    assert found["tokens"] == 0 and all(found[rate] is None for rate in rates)


def test_the_plain_verifier_has_no_acceptance():
    found = summarize(run_of(block(0, 0, 1), block(0, 0, 1), draft="verifier"))
    assert found["acceptance_rate"] is None and found["expected_acceptance"] is None and found["block_efficiency"] == 1
    assert found["acceptance_by_position"] == []


def test_a_stop_token_that_was_drafted_ends_the_text():
    """The token that would have followed it is in the trace, not in the text."""
    made = block(2, 2, 2)
    assert made.next_token == 99 and run_of(made).token_ids == [1, 2]
    assert summarize(run_of(made))["block_efficiency"] == 2


def test_positions_behind_a_rejection_are_not_tested():
    assert acceptance_by_position([block(4, 0, 1), block(4, 0, 1)]) == [0.0]
    assert acceptance_by_position([]) == []


def test_a_run_cannot_be_changed():
    with pytest.raises(AttributeError):
        setattr(run_of(), "draft", "other")  # noqa: B010


def test_the_repositorys_live_rows_are_blocks():
    """Every stored run: its blocks are of this schema and give the metrics that the row states."""
    count = 0
    for row in read_jsonl(ROOT / "studies/preference/results/live.jsonl"):
        if is_header(row):
            continue
        blocks = [read_block(found) for found in row["blocks"]]
        assert row["tokens"] == sum(len(found.tokens) for found in blocks) and row["blocks"] == [
            asdict_lists(b) for b in blocks
        ]
        assert row["drafted"] == sum(len(found.drafted) for found in blocks)
        assert row["accepted"] == sum(found.accepted for found in blocks)
        assert row["acceptance_by_position"] == pytest.approx(acceptance_by_position(blocks))
        for found in blocks:
            assert found.tokens[: found.accepted] == found.drafted[: found.accepted]
        count += 1
    assert count >= 228


def asdict_lists(found: Block) -> dict:
    return json.loads(json.dumps(asdict(found)))


def test_a_trace_is_read_without_torch():
    code = "import sys, specdec.trace, specdec.comparison, specdec.theory, specdec.intervals; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

"""One run of the decoding loop, block by block: what the terminal, the evaluation and the viewer write and read.

A trace file is JSON Lines: a header row as in every row file (`specdec.provenance.start_rows`), then for every run a row
that describes it, and a row a block. Rejected drafts are in it, and p and q of every tested token.

    {"run": 0, "draft": "base", "prompt": …, "seed": 42, "settings": {…}, "models": {…}, "prefill_seconds": 0.4}
    {"run": 0, "block": 0, "drafted": [ids], "p": […], "q": […], "overlap": […], "accepted": 2, "next_token": id,
     "tokens": [ids], "seconds": 0.3, "draft_seconds": 0.1, "verify_seconds": 0.2, "drafted_text": […], "next_text": "…"}

No torch in this module: a trace can be read without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from specdec.files import BadLine, parse_line


@dataclass(frozen=True)
class Block:
    """One verifier pass. A draft is tested if all before it in its block were accepted; the others have no p and q here.

    Traces of earlier versions lack rejected ids, p and q: there they are None.
    """

    drafted: tuple[int | None, ...]  # [K] the draft's tokens, in the verifier's ids
    p: tuple[float, ...] | None  # of each tested draft token; empty at temperature 0
    q: tuple[float, ...] | None
    overlap: tuple[float, ...] | None  # Σ_x min(p, q) at each tested position; empty at temperature 0
    accepted: int
    next_token: int | None  # the correction, or the free token after K accepted ones
    tokens: tuple[int, ...]  # emitted: accepted drafts, then next_token; cut behind a stop token
    seconds: float | None
    draft_seconds: float | None  # in the draft's forward passes
    verify_seconds: float | None  # in the verifier's


@dataclass(frozen=True)
class Run:
    """One prompt decoded with one draft, or by the verifier alone (draft "verifier")."""

    prompt: str
    draft: str
    seed: int
    text: str
    prefill_seconds: float
    blocks: tuple[Block, ...]
    interrupted: bool = False

    @property
    def token_ids(self) -> list[int]:
        return [token for block in self.blocks for token in block.tokens]


def summarize(run: Run) -> dict:
    """The metrics of one run; `seconds` includes the prefill.

    acceptance_rate is the study's α: accepted / drafted. expected_acceptance is the mean of Σ_x min(p, q) over the
    positions tested (Leviathan et al. 2023, definition 3.1 with theorem 3.5): another quantity for K > 1, because
    drafts behind a rejection count as drafted and are never tested.
    """
    blocks, tokens = run.blocks, len(run.token_ids)
    in_blocks, draft_seconds, verify_seconds = (
        sum(getattr(block, name) for block in blocks) for name in ("seconds", "draft_seconds", "verify_seconds")
    )
    seconds = run.prefill_seconds + in_blocks
    drafted = sum(len(block.drafted) for block in blocks)
    accepted = sum(block.accepted for block in blocks)
    overlaps = [value for block in blocks for value in block.overlap or ()]
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": accepted / drafted if drafted else None,
        "expected_acceptance": sum(overlaps) / len(overlaps) if overlaps else None,
        "block_efficiency": tokens / len(blocks) if blocks else None,
        "acceptance_by_position": acceptance_by_position(blocks),
        "blocks": len(blocks),
        "prefill_seconds": run.prefill_seconds,
        "draft_seconds": draft_seconds,
        "verify_seconds": verify_seconds,
        "other_seconds": in_blocks - draft_seconds - verify_seconds,
    }


def acceptance_by_position(blocks: tuple[Block, ...] | list[Block]) -> list[float]:
    """Share accepted among the drafts tested at position 1, 2, … of a block; one behind a rejection is not tested."""
    shares = []
    for position in range(max((len(block.drafted) for block in blocks), default=0)):
        tested = [block for block in blocks if len(block.drafted) > position and block.accepted >= position]
        if not tested:
            break
        shares.append(sum(block.accepted > position for block in tested) / len(tested))
    return shares


def block_row(block: Block) -> dict:
    return asdict(block)


def read_block(row: dict) -> Block:
    """The block of a row that `block_row` made; other keys of the row are ignored."""
    values: dict[str, Any] = {}
    for field in fields(Block):
        value = row[field.name]
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return Block(**values)


# --- a trace file -----------------------------------------------------------------------------------------------------


def read_trace(file: str | Path) -> list[tuple[dict, dict, list[dict]]]:
    """(header row, run row, block rows) of every run in a trace file; `read_block` takes a block row. Each row is checked.

    A file without a header, written by hand or by an earlier version, has {} there.

    Raises:
        OSError: no such file, a folder, no permission.
        BadLine: file, line, and what is wrong with it: not JSON, cut off, of another kind, out of order.
    """
    runs: list[tuple[dict, dict, list[dict]]] = []
    header: dict = {}
    for number, row in _numbered(file):
        try:
            if {"conditions", "environment"} <= row.keys():
                header = row
            elif "block" in row:
                _check_block(row, runs)
                runs[-1][2].append(row)
            elif {"run", "draft", "prompt"} <= row.keys():
                _check_run(row)
                runs.append((header, row, []))
            else:
                raise ValueError("neither a header, a run nor a block of a trace")
        except ValueError as error:
            raise BadLine(f"{file}, line {number}: {error}") from None
    return runs


def _numbered(file: str | Path) -> Iterator[tuple[int, dict]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip(b"\xef\xbb\xbf \t\r\n"):
                continue
            try:
                yield number, parse_line(line.removeprefix(b"\xef\xbb\xbf"))
            except ValueError as error:
                cut = "cut off, " if not line.endswith(b"\n") and str(error).startswith("not ") else ""
                raise BadLine(f"{file}, line {number}: {cut}{error}") from None


def _check_run(row: dict) -> None:
    for key in ("draft", "prompt"):
        if not isinstance(row[key], str):
            raise ValueError(f"'{key}' is no text")
    for key in ("settings", "models"):
        if not isinstance(row.get(key, {}), dict):
            raise ValueError(f"'{key}' is no object")


def _check_block(row: dict, runs: list[tuple[dict, dict, list[dict]]]) -> None:
    if not runs or runs[-1][1]["run"] != row.get("run"):
        raise ValueError(f"a block of run {row.get('run')}, whose row does not stand before it")
    expected = len(runs[-1][2])
    if row["block"] != expected:
        raise ValueError(f"block {row['block']} of run {row['run']}, where block {expected} is expected")
    missing = [field.name for field in fields(Block) if field.name not in row]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing")
    drafted, accepted = row["drafted"], row["accepted"]
    if not _all(drafted, int, or_none=True):
        raise ValueError("'drafted' is no list of token ids")
    if not isinstance(accepted, int) or not 0 <= accepted <= len(drafted):
        raise ValueError(f"'accepted' is no number from 0 to {len(drafted)}, the drafts of the block")
    if not _all(row["tokens"], int) or len(row["tokens"]) > accepted + 1:
        raise ValueError("'tokens' is no list of at most accepted + 1 token ids")
    if not isinstance(row["next_token"], int | None):
        raise ValueError("'next_token' is no token id")
    tested = min(accepted + 1, len(drafted))
    for key in ("p", "q", "overlap"):
        values = row[key]
        if values is not None and not (_all(values, int | float) and len(values) in (0, tested)):
            raise ValueError(f"'{key}' is no list of {tested} numbers, one for every tested draft")
        if not all(0 <= value < 1.001 for value in values or []):  # float32 sums end a little above 1
            raise ValueError(f"'{key}' holds a number that is no probability")
    texts = row.get("drafted_text")
    if texts is not None and not (_all(texts, str, or_none=True) and len(texts) == len(drafted)):
        raise ValueError("'drafted_text' is no list of a text for every draft")
    if not isinstance(row.get("next_text"), str | None):
        raise ValueError("'next_text' is no text")


def _all(values: object, kind, or_none: bool = False) -> bool:
    """Whether `values` is a list of nothing else."""
    if not isinstance(values, list):
        return False
    return all((or_none and value is None) or (isinstance(value, kind) and not isinstance(value, bool)) for value in values)


def live_means(rows: list[dict], value: Callable[[dict], float | None]) -> list[tuple[dict, dict[str, float]]]:
    """(a row of the prompt, draft → mean of `value` over its random seeds) of every prompt in the rows of `live`.

    The plain verifier, which is no draft, is left out, and so is a run of which the value is None, as the acceptance rate of a
    text in which nothing was drafted.
    """
    values: dict[str, tuple[dict, dict[str, list[float]]]] = {}
    for row in rows:
        of_row = value(row)
        if row["draft"] != "verifier" and of_row is not None:
            values.setdefault(row["prompt"], (row, {}))[1].setdefault(row["draft"], []).append(of_row)
    return [(row, {name: sum(found) / len(found) for name, found in drafts.items()}) for row, drafts in values.values()]

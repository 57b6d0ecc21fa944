"""Drafts compared over prompts, from the rows that evaluate_acceptance.py wrote. No torch: a report needs no model.

A list of (prompt row, draft → metric) is what all comparisons are made of; differences are paired by prompt, and intervals
are over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from specdec.intervals import mean_with_interval
from specdec.provenance import read_row_file
from specdec.terminal import Problem, say
from specdec.theory import expected_blocks, speedup

PAIRED_KEYS, LIVE_KEYS = ("overlap", "kept"), ("draft", "seed", "blocks")  # what a row of either step must hold
VARY = ("drafts", "adapters")  # conditions of a run that need not be those of the others: it may measure other drafts

Values = list[tuple[dict, dict[str, float]]]  # (prompt row, draft → metric)


class Measured:
    """The rows of `paired` or `live`, all made under the same conditions, and what their headers say of them."""

    def __init__(self, file: Path, keys: Iterable[str], conditions: dict | None = None):
        """Reads `file`; a file that does not exist yet has no rows.

        Raises:
            Problem: a row lacks one of `keys` or its header, or the rows differ from each other, or from `conditions` and
                the adapters in them.
        """
        self.file = file
        self.headers, self.rows = read_row_file(file, required=("prompt",)) if file.exists() else ({}, [])
        self.drafts: dict[str, str | None] = {}  # name → path of its adapter, None for base
        self.adapters: dict[str, str | None] = {}  # name → digest
        self.conditions: dict = {}
        for found in ([conditions] if conditions else []) + [header["conditions"] for header in self.headers.values()]:
            self._add(found)
        for row in self.rows:
            if row.get("run_id") not in self.headers:
                raise Problem(f"{file}: the row of '{row['prompt'][:40]}…' has no header. Move the file away, measure again.")
            if missing := [key for key in keys if key not in row]:
                raise Problem(
                    f"{file}: the row of '{row['prompt'][:40]}…' lacks {missing[0]}. Delete it, or move the file away, "
                    "and run the step again."
                )

    def _add(self, conditions: dict) -> None:
        fixed = {name: value for name, value in conditions.items() if name not in VARY}
        self.conditions = self.conditions or fixed
        other = [f"{name} {value}" for name, value in fixed.items() if value != self.conditions.get(name)]
        other += [name for name in self.conditions if name not in fixed]
        adapters = conditions.get("adapters", {})
        changed = [name for name, digest in adapters.items() if self.adapters.get(name, digest) != digest]
        if other or changed:
            what = f"settings or models ({other[0]})" if other else f"adapters ({changed[0]})"
            raise Problem(
                f"{self.file} holds rows of other {what}. Give the same options again, or move the file away to measure again."
            )
        self.adapters.update(adapters)
        self.drafts.update(conditions.get("drafts", {}))

    def environments(self) -> list[dict]:
        """The distinct machines and commits that measured the rows."""
        used = {row["run_id"] for row in self.rows}
        found: list[dict] = []
        for run_id, header in self.headers.items():
            if run_id in used and header["environment"] not in found:
                found.append(header["environment"])
        return found

    def only(self, prompts: set[str]) -> Measured:
        """Leaves the rows of these prompts."""
        self.rows = [row for row in self.rows if row["prompt"] in prompts]
        return self


def joined(rows: list[dict]) -> list[dict]:
    """One row per prompt; drafts measured in separate runs of `paired` are joined."""
    by_prompt: dict[str, dict] = {}
    for row in rows:
        known = by_prompt.setdefault(row["prompt"], {**row, "overlap": {}, "kept": {}, "q": {}})
        for name in ("overlap", "kept", "q"):
            known[name].update(row.get(name, {}))  # rows of earlier versions have no q
    return list(by_prompt.values())


def replayed(rows: list[dict], k: int, max_new_tokens: int) -> list[tuple[dict, dict[str, dict[str, float]]]]:
    """(prompt row, draft → acceptance_rate and block_efficiency) of decoding that would have produced the stored answers."""
    result = []
    for row in rows:
        metrics = {}
        for name, kept in row["kept"].items():
            passes, drafted, accepted = expected_blocks(kept, k, max_new_tokens)
            metrics[name] = {
                "acceptance_rate": accepted / drafted if drafted else 0.0,
                "block_efficiency": len(kept) / passes,
            }
        result.append((row, metrics))
    return result


def pick(replays: list[tuple[dict, dict[str, dict[str, float]]]], metric: str) -> Values:
    return [(row, {name: metrics[metric] for name, metrics in drafts.items()}) for row, drafts in replays]


def domain_of(row: dict) -> str:
    """The paper's own prompts stand apart from the large sets."""
    return f"study0 {row['domain']}" if row["source"] == "study0" else row["domain"]


def by_type(row: dict) -> list[str]:
    """The groups that a prompt counts in: its domain, and its query type within it."""
    if row["source"] == "study0":
        return [domain_of(row)]
    return [domain_of(row), f"{domain_of(row)}: {row['query_type']}"]


@cache
def say_once(line: str) -> None:
    """A report compares the same drafts metric by metric: what is missing from them is said the first time."""
    say(line)


def compare_drafts(values: Values, seed: int, groups_of: Callable[[dict], list[str]] = by_type) -> dict:
    """Per group: the number of prompts, every draft's mean, and every tuned draft's paired change against base."""
    groups: dict[str, list[dict[str, float]]] = {}
    for row, drafts in values:
        for group in groups_of(row):
            groups.setdefault(group, []).append(drafts)
    result = {}
    for group, prompts in sorted(groups.items()):
        names = sorted(set.intersection(*(set(drafts) for drafts in prompts)))
        for name in sorted(set.union(*(set(drafts) for drafts in prompts)) - set(names)):
            say_once(f"{group}: {name} lacks some of the {len(prompts)} prompts and is left out; run its step again")
        changes = {}
        for name in names:
            if name != "base" and "base" in names:
                changes[name] = mean_with_interval([drafts[name] - drafts["base"] for drafts in prompts], seed)
        result[group] = {
            "prompts": len(prompts),
            "means": {name: sum(drafts[name] for drafts in prompts) / len(prompts) for name in names},
            "changes": changes,
        }
    return result


def means_by_group(values: Values) -> dict[str, dict[str, float]]:
    return {group: found["means"] for group, found in compare_drafts(values, seed=0).items()}


def shared_mass(rows: list[dict]) -> dict[str, float | None]:
    """Per group the verifier's mean mass on the tokens that both vocabularies name: the ceiling of Σ min(p, q)."""
    known = [(row, {"verifier": row["shared_mass"]}) for row in rows if row.get("shared_mass") is not None]
    return {group: found["means"]["verifier"] for group, found in compare_drafts(known, seed=0).items()}


def memory_bound_speedup(values: Values, k: int, counts: dict | None, tables: set[str], seed: int) -> dict | None:
    """MBSU of Goel et al. 2024, with c by the number of parameters, of which a draft in `tables` has none.

    None where rows do not tell it.
    """
    if counts is None:
        return None
    c = counts["draft"] / counts["verifier"]
    factors = []
    for row, drafts in values:
        factors.append((row, {name: speedup(tau, k, 0 if name in tables else c) for name, tau in drafts.items()}))
    return compare_drafts(factors, seed)


def agreement(live: Values, expected: Values, seed: int) -> dict:
    """Live minus replayed values on the prompts that have both: the interval should hold 0.

    For every draft, and for every change against base. The texts differ (the verifier was sampled again), so the difference
    carries their noise and that of acceptance.
    """
    known = {row["prompt"]: drafts for row, drafts in expected}
    differences: dict[str, list[float]] = {}
    for row, drafts in live:
        of_prompt = known.get(row["prompt"], {})
        gaps = {name: value - of_prompt[name] for name, value in drafts.items() if name in of_prompt}
        for name, gap in gaps.items():
            differences.setdefault(name, []).append(gap)
            if name != "base" and "base" in gaps:
                differences.setdefault(f"{name} − base", []).append(gap - gaps["base"])
    return {name: {"prompts": len(found), **mean_with_interval(found, seed)} for name, found in differences.items()}

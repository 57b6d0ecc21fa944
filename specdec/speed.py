"""From the rows of benchmark_decoding.py, one a prompt and decoding, to one row for every decoding. No torch here.

A decoding is (peer, draft, K): who decodes, with which draft (None: without one), how many tokens at a time.
"""

from __future__ import annotations

import statistics

from specdec.theory import speedup, tokens_per_block

OURS = ("transformers", "int8")  # the peers that are our loop: the others tell no blocks

Runs = dict[str, dict]  # prompt → row


def summarize_rows(rows: list[dict], about: dict[str, dict]) -> list[dict]:
    """Medians over prompts; ratios are medians of the ratios prompt by prompt. `about`: peer → what else is known of it."""
    decodings: dict[tuple, Runs] = {}
    for row in rows:
        decodings.setdefault((row["peer"], row["draft"], row["k"]), {})[row["prompt"]] = row
    return [summary_row(decodings, decoding, about) for decoding in decodings]


def summary_row(decodings: dict[tuple, Runs], decoding: tuple, about: dict[str, dict]) -> dict:
    peer, draft, k = decoding
    runs = decodings[decoding]
    firsts = [run["first_token_seconds"] for run in runs.values() if run["first_token_seconds"] is not None]
    row = {
        "peer": peer,
        "draft": draft,
        "k": k,
        "prompts": len(runs),
        "tokens_per_second": statistics.median(run["tokens_per_second"] for run in runs.values()),
        "first_token_seconds": statistics.median(firsts) if firsts else None,
        "over_llama_cpp": ratio(runs, decodings.get(("llama.cpp", None, 0))),
        "over_generate": ratio(runs, decodings.get(("generate", None, 0))),
        "over_no_draft": ratio(runs, decodings.get((peer, None, 0))),
    }
    drafted, accepted = (sum(run.get(key) or 0 for run in runs.values()) for key in ("drafted", "accepted"))
    if drafted:
        row["acceptance_rate"] = accepted / drafted
    if peer in OURS:
        row |= blocks_row(list(runs.values()), k, about[peer], about.get("machine"))
    return row


def ratio(runs: Runs, others: Runs | None) -> float | None:
    """Mean over the prompts that both have, of a prompt's ratio; None where there is none."""
    both = [prompt for prompt in runs if others and prompt in others]
    if not others or not both:
        return None
    return statistics.mean(runs[prompt]["tokens_per_second"] / others[prompt]["tokens_per_second"] for prompt in both)


def blocks_row(runs: list[dict], k: int, about: dict, rates: dict | None) -> dict:
    """What only our loop knows: Σ min(p, q), the parts of a block, their floor, theory's speed-up."""
    blocks = sum(run["blocks"] for run in runs)
    tau = sum(run["tokens"] for run in runs) / blocks
    row = {
        "block_efficiency": tau,
        "seconds_per_block": {
            part: sum(run[f"{part}_seconds"] for run in runs) / blocks for part in ("draft", "verify", "other")
        },
        "overhead_share": sum(run["other_seconds"] for run in runs) / sum(run["seconds"] for run in runs),
    }
    costs, weights = about["seconds_per_step"], about.get("weights")
    if rates and weights:
        row["floor_per_block"] = block_floor(weights.get("draft"), weights["verifier"], k, rates)
    overlaps = [run["expected_acceptance"] for run in runs if run["expected_acceptance"] is not None]
    if overlaps:  # none where every prompt filled the draft's context
        row["expected_acceptance"] = statistics.mean(overlaps)
        if "draft" in costs:
            c = costs["draft"] / costs["verifier"]
            row["c"], row["predicted_from_blocks"] = c, speedup(tau, k, c)
            row["predicted_from_alpha"] = speedup(tokens_per_block(row["expected_acceptance"], k), k, c)
    return row


# --- the least that a block can take ----------------------------------------------------------------------------------


def pass_floor(weights: dict, tokens: int, rates: dict) -> float:
    """Seconds that a pass over `tokens` tokens takes at least: reading the weights, or computing the products.

    Args:
        weights: count; bytes of one; products, how often a token is multiplied with it; dtype of the product.
        rates: what the machine can do, as `specdec.machine.machine_rates` returns it.
    """
    read = weights["count"] * weights["bytes"] / rates["bytes_per_second"]
    computed = weights["count"] * weights["products"] * tokens / rates["multiply_adds_per_second"][weights["dtype"]]
    return max(read, computed)


def block_floor(draft: dict | None, verifier: dict, k: int, rates: dict) -> dict:
    """Seconds that a block of `k` drafts takes at least: those of the draft's steps, and of the verifier's pass over k + 1."""
    drafting = k * pass_floor(draft, 1, rates) if draft else 0.0
    return {"draft": drafting, "verify": pass_floor(verifier, k + 1, rates)}

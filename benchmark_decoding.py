"""How fast is the loop? transformers' own decoding against ours, in one process and in turn, prompt by prompt.

For every prompt of the study's tables: `generate` of transformers, on the verifier as loaded and with its linear layers
packed as ours are; our loop without a draft; our loop at several K. On a pair with identical vocabulary (SmolLM2
drafting for itself, which says nothing about speed-up) our loop against transformers' assisted generation. If
llama-cpp-python happens to be installed, llama.cpp's plain decoding of the verifier's GGUF file (--llama-cpp FILE).

Reported: medians over prompts, ratios, the cost ratio c = (draft step) / (verifier step), and the speed-up that theory
predicts, twice: from α alone, as if positions were independent (Leviathan et al. 2023, theorem 3.8),

    (1 − α^(K+1)) / ((1 − α) (cK + 1)),

and from the tokens per block really measured, τ / (cK + 1). Acceptances are not independent, so the first is too high.

    python benchmark_decoding.py --json studies/engine/results/benchmark.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from specdec.backend import Backend
from specdec.engine import Engine
from specdec.files import read_jsonl
from specdec.models import SMOLLM2, Pair, add_model_arguments, choose_pair, load_model
from specdec.provenance import peak_memory_bytes, provenance
from specdec.reference import assistance, generate_options, use_plain_sampling
from specdec.sampling import Settings
from specdec.terminal import Problem, check_outputs, console, positive_int, put_json, run, say
from specdec.theory import speedup, tokens_per_block
from specdec.trace import summarize
from speculative_decode import Drafter, run_prompt


def generate_speed(model, engine: Engine, prompt: str, settings: Settings, seed: int, **options) -> float:
    """Tokens per second of transformers' `generate` under the same distribution."""
    import torch
    from transformers import set_seed

    ids = torch.tensor([engine.prompt_ids(prompt, settings)[0]], device=model.device)
    sampling = generate_options(engine, settings)
    set_seed(seed)
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **sampling, **options)
    return (out.shape[1] - ids.shape[1]) / (time.perf_counter() - started)


def measure(engine: Engine, drafter, plain_model, prompts: list[str], args) -> Iterator[dict]:
    """One row a prompt: tokens per second of every contender, and the runs of our loop at each K."""
    from tqdm import tqdm

    for prompt in tqdm(prompts, desc="prompts"):
        settings = Settings(max_new_tokens=args.max_new_tokens)
        row = {"prompt": prompt, "generate": None, "generate_packed": None}
        if plain_model:
            row["generate"] = generate_speed(plain_model, engine, prompt, settings, args.seed)
            row["generate_packed"] = generate_speed(engine.verifier.model, engine, prompt, settings, args.seed)
        row["ours"] = _run(engine, prompt, settings, args.seed)
        for k in args.k:
            row[f"K={k}"] = _run(engine, prompt, Settings(k=k, max_new_tokens=args.max_new_tokens), args.seed, drafter)
        yield row


def _run(engine: Engine, prompt: str, settings: Settings, seed: int, drafter=None) -> dict:
    decoded = run_prompt(engine, prompt, "base" if drafter else "verifier", settings, seed, drafter)
    if decoded.interrupted:
        raise KeyboardInterrupt
    metrics = summarize(decoded)
    return {
        key: metrics[key]
        for key in (
            "tokens",
            "seconds",
            "tokens_per_second",
            "drafted",
            "accepted",
            "blocks",
            "acceptance_rate",
            "expected_acceptance",
            "block_efficiency",
            "draft_seconds",
            "verify_seconds",
            "other_seconds",
            "prefill_seconds",
        )
    }


def step_seconds(model: Backend, context: int = 64, steps: int = 20, width: int = 1) -> float:
    """Median seconds of one forward pass of `width` tokens behind `context` cached ones."""
    import torch

    with torch.inference_mode():
        model.start()
        model.feed(list(range(context)))
        spent = []
        for _ in range(steps):
            before = model.seconds
            model.feed(list(range(width)), keep=width)
            model.drop(width)
            spent.append(model.seconds - before)
    return statistics.median(spent)


def summarize_rows(rows: list[dict], ks: list[int], costs: dict) -> dict:
    """Medians over prompts; ratios are medians of the paired ratios, prompt by prompt."""

    def median(values):
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    def over(row, name, peer):
        return row[name]["tokens_per_second"] / row[peer] if row[peer] else None

    c = costs["draft"] / costs["verifier"]
    summary = {
        "generate": median(row["generate"] for row in rows),
        "generate_packed": median(row["generate_packed"] for row in rows),
        "ours": median(row["ours"]["tokens_per_second"] for row in rows),
        "ours_over_generate": median(over(row, "ours", "generate") for row in rows),
        "ours_over_generate_packed": median(over(row, "ours", "generate_packed") for row in rows),
        "seconds_per_step": costs,
        "c": c,
        "by_k": [],
    }
    for k in ks:
        runs = [row[f"K={k}"] for row in rows]
        overlaps = [result["expected_acceptance"] for result in runs if result["expected_acceptance"] is not None]
        alpha = statistics.mean(overlaps) if overlaps else 0.0  # none: every prompt filled the draft's context
        drafted = sum(result["drafted"] for result in runs)
        tau = sum(result["tokens"] for result in runs) / sum(result["blocks"] for result in runs)
        summary["by_k"].append(
            {
                "k": k,
                "tokens_per_second": median(result["tokens_per_second"] for result in runs),
                "over_generate": median(over(row, f"K={k}", "generate") for row in rows),
                "over_ours": median(row[f"K={k}"]["tokens_per_second"] / row["ours"]["tokens_per_second"] for row in rows),
                "acceptance_rate": sum(result["accepted"] for result in runs) / drafted if drafted else 0.0,
                "expected_acceptance": alpha,
                "block_efficiency": tau,
                "predicted_from_alpha": speedup(tokens_per_block(alpha, k), k, c),
                "predicted_from_blocks": speedup(tau, k, c),
                "seconds_per_block": {
                    part: sum(result[f"{part}_seconds"] for result in runs) / sum(result["blocks"] for result in runs)
                    for part in ("draft", "verify", "other")
                },
                "overhead_share": sum(result["other_seconds"] for result in runs) / sum(result["seconds"] for result in runs),
            }
        )
    return summary


def same_vocabulary(prompts: list[str], args) -> dict:
    """SmolLM2 drafts for itself: our loop and transformers' assisted generation do the same work at K = 4."""
    engine = Engine(Pair("smollm2-self", SMOLLM2, SMOLLM2))
    draft, _ = engine.load_draft()
    drafter = Drafter(draft, engine.shared, engine.rows)
    settings = Settings(k=4, max_new_tokens=args.max_new_tokens)
    ours = [_run(engine, prompt, settings, args.seed, drafter)["tokens_per_second"] for prompt in prompts]
    assisted = assistance(engine, draft.model, settings)
    theirs = [generate_speed(engine.verifier.model, engine, prompt, settings, args.seed, **assisted) for prompt in prompts]
    return {"k": 4, "ours": statistics.median(ours), "assisted_generation": statistics.median(theirs)}


def llama_cpp(file: Path, prompts: list[str], args) -> float | None:
    """Median tokens per second of llama.cpp on the verifier's GGUF file; None where it is not installed."""
    try:
        from llama_cpp import Llama
    except ImportError:
        say("llama-cpp-python is not installed; that row is left out")
        return None
    model = Llama(str(file), n_ctx=1024, verbose=False, seed=args.seed)
    speeds = []
    for prompt in prompts:
        started = time.perf_counter()
        out = model.create_chat_completion(
            [{"role": "user", "content": prompt}], temperature=0.7, top_k=0, top_p=1.0, max_tokens=args.max_new_tokens
        )
        speeds.append(out["usage"]["completion_tokens"] / (time.perf_counter() - started))
    return statistics.median(speeds)


def written(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def print_summary(summary: dict) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "tokens/s", "× generate", "× ours", "α", "Σmin", "tokens/block", "predicted (α)", "predicted (blocks)"):
        table.add_column(name, justify="left" if not name else "right")
    if summary["generate"]:
        table.add_row("generate", f"{summary['generate']:.2f}", "1.00")
        packed = summary["generate_packed"]
        table.add_row("generate, packed linears", f"{packed:.2f}", f"{packed / summary['generate']:.2f}")
    table.add_row("ours, no draft", f"{summary['ours']:.2f}", written(summary["ours_over_generate"]), "1.00")
    for row in summary["by_k"]:
        table.add_row(
            f"ours, K={row['k']}",
            *(
                written(row[key])
                for key in (
                    "tokens_per_second",
                    "over_generate",
                    "over_ours",
                    "acceptance_rate",
                    "expected_acceptance",
                    "block_efficiency",
                    "predicted_from_alpha",
                    "predicted_from_blocks",
                )
            ),
        )
    console().print(table)
    print(
        f"cost ratio c = {summary['c']:.3f}; time outside the models' forwards: "
        + ", ".join(f"K={row['k']} {row['overhead_share']:.1%}" for row in summary["by_k"])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", nargs="+", default=["domains/study0.jsonl"], metavar="FILE")
    parser.add_argument("--k", type=positive_int, nargs="+", default=range(1, 9), help="draft lengths (default 1 to 8)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default 64)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N prompts")
    parser.add_argument("--llama-cpp", type=Path, metavar="FILE", help="the verifier's GGUF file, for llama.cpp's row")
    parser.add_argument("--skip-same-vocabulary", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser, decodes=True)
    args = parser.parse_args()
    if args.max_new_tokens < 2:
        raise Problem("--max-new-tokens must be at least 2: the last token of an answer is never drafted.")
    if args.llama_cpp and not args.llama_cpp.is_file():
        raise Problem(f"no GGUF file at {args.llama_cpp}. Name the verifier's by --llama-cpp.")
    check_outputs(args.json, inputs=args.prompts)
    prompts = [row["prompt"] for file in args.prompts for row in read_jsonl(file, required=("prompt",))]
    prompts = prompts[: args.limit]
    if not prompts:
        raise Problem(f'{" ".join(args.prompts)} holds no prompt. Give a file with one {{"prompt": …}} a line.')
    pair = choose_pair(args)
    engine = Engine(pair)
    draft, _ = engine.load_draft()
    drafter = Drafter(draft, engine.shared, engine.rows)
    for prompt in prompts:
        engine.prompt_ids(prompt, Settings(max_new_tokens=args.max_new_tokens))  # refused before the first is measured
    _run(engine, prompts[0], Settings(max_new_tokens=16), args.seed, drafter)  # warms up
    peak = peak_memory_bytes()  # of decoding alone; the unpacked verifier below is for comparison
    costs = {
        "draft": step_seconds(draft),
        "verifier": step_seconds(engine.verifier),
        "verifier_of_5": step_seconds(engine.verifier, width=5),
    }
    plain_model = None
    if pair.backend == "transformers":
        plain_model = load_model(pair.verifier, pair.quantization)
        use_plain_sampling(plain_model)
    conditions = {
        "backend": pair.backend,
        "temperature": 0.7,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "prompts": len(prompts),
    }
    result: dict = {"pair": pair.name, **provenance(conditions), "summary": None, "peak_memory_bytes": peak, "rows": []}
    result |= {"same_vocabulary": None, "llama_cpp": None, "interrupted": True}
    try:
        for row in measure(engine, drafter, plain_model, prompts, args):
            result["rows"].append(row)
            result["summary"] = summarize_rows(result["rows"], args.k, costs)
            keep(result, args)
        if not args.skip_same_vocabulary and plain_model:
            result["same_vocabulary"] = same_vocabulary(prompts, args)
            keep(result, args)
        if args.llama_cpp:
            result["llama_cpp"] = llama_cpp(args.llama_cpp, prompts, args)
        result["interrupted"] = False
    finally:  # also after Ctrl-C: the prompts that were measured whole
        keep(result, args)
        if args.json == "-":
            put_json(result, args.json)
        elif result["summary"]:
            print_summary(result["summary"])
        if result["interrupted"]:
            say(f"stopped before the end; {len(result['rows'])} of {len(prompts)} prompts were measured whole.")


def keep(result: dict, args) -> None:
    """Writes what is measured so far, so that nothing of it is lost."""
    if args.json and args.json != "-":
        put_json(result, args.json)


if __name__ == "__main__":
    run(main)

"""How fast is decoding, and what does a block's time consist of? Every engine in a process of its own, on the same prompts.

The peers, one after the other, each alone in memory:

  generate     transformers' own decoding of the verifier, as loaded
  packed       the same, with its linear layers packed as ours are
  transformers our loop on transformers' models: without a draft, and with every draft of --drafts at every K
  int8         our loop on our own int8 forward pass
  llama.cpp    on the verifier's GGUF file, and with --llama-cpp-draft also with that draft (`pip install -r
               requirements-peers.txt`; not installed, its row says so)
  openvino     OpenVINO GenAI on the same file, installed by the same command
  self         SmolLM2 drafts for itself, which says nothing about speed-up: our loop and transformers' assisted generation

Reported: medians over prompts and ratios prompt by prompt, to llama.cpp without a draft first of all; seconds until the first
token; peak memory; of a block the seconds in draft, verifier and the rest, beside the least that this machine's memory and
processor allow (specdec/machine.py); the cost ratio c = (draft step) / (verifier step); and the speed-up that theory predicts,
twice: from α alone, as if positions were independent (Leviathan et al. 2023, theorem 3.8),

    (1 − α^(K+1)) / ((1 − α) (cK + 1)),

and from the tokens per block really measured, τ / (cK + 1). Acceptances are not independent, so the first is too high.

    python benchmark_decoding.py --drafts base distilled=adapters/distilled --peers generate transformers=2 int8 llama.cpp
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from specdec import llama_cpp, openvino
from specdec.backend import Backend, CachedModel
from specdec.engine import Engine
from specdec.files import read_jsonl
from specdec.int8 import Int8Model
from specdec.machine import machine_rates, multiplied_weights
from specdec.models import (
    SMOLLM2,
    Model,
    Pair,
    add_model_arguments,
    choose_pair,
    compute_dtype,
    context_of,
    load_model,
    load_pretrained,
    load_tokenizer,
    named_model,
    pack_linears,
    prompt_token_ids,
    stop_ids,
)
from specdec.provenance import provenance
from specdec.reference import assistance, generate_options, use_plain_sampling
from specdec.sampling import Settings
from specdec.speed import summarize_rows
from specdec.terminal import Problem, check_outputs, console, positive_int, put_json, run, say
from specdec.trace import summarize
from specdec.vocabulary import named_tokens
from speculative_decode import Drafter, load_drafter, named_drafts, run_prompt

KEPT: tuple[str, ...] = (
    "tokens",
    "seconds",
    "tokens_per_second",
    "drafted",
    "accepted",
    "blocks",
    "acceptance_rate",
    "expected_acceptance",
)
KEPT += ("block_efficiency", "prefill_seconds", "draft_seconds", "verify_seconds", "other_seconds")  # of `summarize`
SAME_K = 4  # of the peer "self"


@dataclass(frozen=True)
class Task:
    """What the process of one peer is told."""

    peer: str
    pair: Pair
    prompts: list[tuple[str, list[int]]]  # text, and its tokens in the verifier's ids
    ks: tuple[int, ...]
    drafts: dict[str, str | None]
    max_new_tokens: int
    seed: int
    threads: int
    lengths: tuple[int, ...] = ()  # of texts, in tokens, behind which a step is measured too
    gguf: Path | None = None
    gguf_draft: Path | None = None

    def settings(self, k: int = 0) -> Settings:
        return Settings(k=k, max_new_tokens=self.max_new_tokens)

    def long_text(self) -> list[int]:
        """As many tokens as the longest of `lengths`; which ones makes no difference to the time."""
        return [number % 64 for number in range(max(self.lengths))]


# --- what a peer's process does: rows of speed, and what else is known of it ------------------------------------------

Found = Iterator[tuple[str, dict]]  # ("row", of one prompt), ("about", of the peer)


def generate(task: Task, pack: bool = False) -> Found:
    """transformers' `generate` under the same distribution."""
    import torch
    from transformers import set_seed

    model = load_model(task.pair.verifier, task.pair.quantization)
    tokenizer = load_tokenizer(task.pair.verifier)
    stop = stop_ids(model, tokenizer)
    use_plain_sampling(model)
    if pack:
        model = pack_linears(model)
    verifier = CachedModel(model, set(named_tokens(tokenizer).values()))
    like_an_engine: Any = SimpleNamespace(stop=stop, verifier=verifier)
    found = [memory("the verifier loaded")]
    for number, (prompt, tokens) in enumerate([task.prompts[0], *task.prompts]):
        settings = task.settings() if number else replace(task.settings(), max_new_tokens=2)  # warms up
        ids = torch.tensor([tokens], device=model.device)
        set_seed(task.seed)
        clock = Clock()
        with torch.inference_mode():
            sampling = generate_options(like_an_engine, settings)
            out = model.generate(ids, attention_mask=torch.ones_like(ids), streamer=clock, **sampling)
        seconds, count = time.perf_counter() - clock.started, out.shape[1] - ids.shape[1]
        row = {"tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}
        if number:
            yield "row", {"draft": None, "k": 0, "prompt": prompt, **row, "first_token_seconds": clock.first}
    yield "about", {"memory": [*found, memory("all texts decoded")]}


class Clock:
    """A streamer of transformers', which is given the prompt, then token after token: notes when the first one came."""

    def __init__(self) -> None:
        self.started, self.first, self.calls = time.perf_counter(), 0.0, 0

    def put(self, tokens) -> None:
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter() - self.started

    def end(self) -> None:
        pass


def ours(task: Task) -> Found:
    """Our loop; every prompt without a draft and with all of them in turn, so that a slow minute meets them all."""
    pair = replace(task.pair, backend=task.peer)
    engine = Engine(pair, task.drafts.values())
    found = [memory("the verifier loaded")]
    drafters: dict[str, Drafter] = {}
    for name, path in task.drafts.items():
        drafters[name] = load_drafter(engine, path)[0]
        found.append(memory(f"the draft {name} loaded"))
    for drafter in drafters.values():
        decoded(engine, task.prompts[0][0], Settings(k=2, max_new_tokens=8), task.seed, drafter)  # warms up
    found.append(memory("a text decoded"))
    weights = {"verifier": weights_of(engine.verifier, pair.verifier)}
    costs = {"verifier": step_seconds(engine.verifier), "verifier_of_5": step_seconds(engine.verifier, width=5)}
    models = [drafter.model for drafter in drafters.values() if isinstance(drafter.model, CachedModel | Int8Model)]
    for model in models[:1]:  # all drafts are one architecture
        weights["draft"], costs["draft"] = weights_of(model, pair.draft), step_seconds(model)
    yield "about", {"seconds_per_step": costs, "weights": weights, "memory": found}
    for prompt, _ in task.prompts:
        yield "row", decoded(engine, prompt, task.settings(), task.seed)
        for name, drafter in drafters.items():
            for k in task.ks:
                yield "row", {**decoded(engine, prompt, task.settings(k), task.seed, drafter), "draft": name}
    yield "about", {"memory": [*found, memory("all texts decoded")]}
    if task.lengths:
        yield "about", {"long": long_steps(engine.verifier, task)}


def decoded(engine: Engine, prompt: str, settings: Settings, seed: int, drafter: Drafter | None = None) -> dict:
    blocks: list = []
    result = run_prompt(engine, prompt, "base" if drafter else "verifier", settings, seed, drafter, blocks.append)
    if result.interrupted:
        raise KeyboardInterrupt
    metrics = summarize(result)
    row = {"draft": None, "k": settings.k, "prompt": prompt, **{key: metrics[key] for key in KEPT}}
    return {**row, "first_token_seconds": result.prefill_seconds + blocks[0].seconds}


def weights_of(model, source: Model) -> dict:
    """What `specdec.speed.pass_floor` asks of a model."""
    if isinstance(model, Int8Model):
        count = multiplied_weights(source, len(model.rows))
        return {"count": count, "bytes": 1, "products": model.products / count, "dtype": "int8"}
    dtype = compute_dtype()
    return {
        "count": multiplied_weights(source),
        "bytes": dtype.itemsize,
        "products": 1,
        "dtype": str(dtype).removeprefix("torch."),
    }


def step_seconds(model: Backend, context: int = 64, steps: int = 20, width: int = 1) -> float:
    """Median seconds of one forward pass of `width` tokens behind `context` cached ones."""
    import torch

    with torch.inference_mode():
        model.start()
        model.feed(list(range(context)))
        return repeated_step(model, steps, width)


def repeated_step(model: Backend, steps: int, width: int = 1) -> float:
    """Median seconds of one forward pass of `width` tokens behind those that are cached; the cache is left as it was."""
    spent = []
    for _ in range(steps):
        before = model.seconds
        model.feed(list(range(width)), keep=width)
        model.drop(width)
        spent.append(model.seconds - before)
    return statistics.median(spent)


def long_steps(model: Backend, task: Task) -> dict:
    """A long prompt read at once, and the seconds of one more token behind texts of every length."""
    import torch

    text, steps = task.long_text(), {}
    before = peak_resident_bytes()
    with torch.inference_mode():
        model.start()
        model.feed(text)
        prefill, length = model.seconds, len(text)
        for shorter in sorted(task.lengths, reverse=True):
            model.drop(length - shorter)
            length = shorter
            steps[str(length)] = repeated_step(model, 5)
    added = peak_resident_bytes() - before
    return {"prompt_tokens": len(text), "prefill_seconds": prefill, "added_peak_bytes": added, "step_seconds": steps}


def by_llama_cpp(task: Task) -> Found:
    """llama.cpp without a draft, or with one at the only K of `task.ks`."""
    assert task.gguf
    longest = max([len(ids) for _, ids in task.prompts] + list(task.lengths))
    k = task.ks[0] if task.gguf_draft else 0
    server = llama_cpp.start_server(task.gguf, longest + task.max_new_tokens + 16, task.threads, task.gguf_draft, k)
    about = {"version": llama_cpp.installed_version()}
    if task.gguf_draft:
        about["rule"] = llama_cpp.RULE
    yield from completed(task, partial(llama_cpp.complete, server), about, k)


def by_openvino(task: Task) -> Found:
    """OpenVINO GenAI without a draft."""
    assert task.gguf
    pipeline = openvino.load(task.gguf, task.threads)
    yield from completed(task, partial(openvino.complete, pipeline), {"version": openvino.installed_version()})


def completed(task: Task, complete: Callable, about: dict, k: int = 0) -> Found:
    """The texts of an engine that is not ours; `complete` is a function as `llama_cpp.complete`, its engine bound."""
    assert task.gguf
    complete = partial(complete, temperature=task.settings().temperature, seed=task.seed)
    found = [memory("loaded")]
    if complete(task.prompts[0][1], 8)["drafted"] is None and task.gguf_draft:  # the first text warms up
        raise Problem(f"llama.cpp does not draft with {task.gguf_draft.name} for {task.gguf.name}: other vocabularies.")
    for prompt, tokens in task.prompts:
        row = complete(tokens, task.max_new_tokens)
        yield "row", {"draft": task.gguf_draft and task.gguf_draft.stem, "k": k, "prompt": prompt, **row}
    about = {**about, "file": task.gguf.name, "file_bytes": task.gguf.stat().st_size}
    yield "about", {**about, "memory": [*found, memory("all texts decoded")]}
    if task.lengths and not task.gguf_draft:
        yield "about", {"long": long_steps_of(complete, task)}


def long_steps_of(complete: Callable, task: Task) -> dict:
    text, steps = task.long_text(), {}
    before = peak_resident_bytes()
    for length in sorted(task.lengths):
        found = complete(text[:length], 8)
        steps[str(length)] = found["token_seconds"]
    added = peak_resident_bytes() - before
    return {
        "prompt_tokens": len(text),
        "prefill_seconds": found["prompt_seconds"],
        "added_peak_bytes": added,
        "step_seconds": steps,
    }


def same_vocabulary(task: Task) -> Found:
    """SmolLM2 drafts for itself: our loop and transformers' assisted generation do the same work."""
    import torch
    from transformers import set_seed

    engine = Engine(Pair("smollm2-self", SMOLLM2, SMOLLM2))
    draft, _ = engine.load_draft()
    drafter = Drafter(draft, engine.shared, engine.rows)
    settings = task.settings(SAME_K)
    assisted = assistance(engine, draft.model, settings) | generate_options(engine, settings)
    speeds: dict[str, list[float]] = {"ours": [], "assisted_generation": []}
    for prompt, _ in task.prompts:
        speeds["ours"].append(decoded(engine, prompt, settings, task.seed, drafter)["tokens_per_second"])
        ids = torch.tensor([engine.prompt_ids(prompt, settings)[0]], device=engine.verifier.device)
        set_seed(task.seed)
        started = time.perf_counter()
        with torch.inference_mode():
            out = engine.verifier.model.generate(ids, attention_mask=torch.ones_like(ids), **assisted)
        speeds["assisted_generation"].append((out.shape[1] - ids.shape[1]) / (time.perf_counter() - started))
        yield "about", {"k": SAME_K, **{name: statistics.median(values) for name, values in speeds.items()}}


def machine(task: Task) -> Found:
    """Not a peer: what memory and processor allow."""
    yield "about", machine_rates()


WORK: dict[str, Callable[[Task], Found]] = {
    "generate": generate,
    "packed": partial(generate, pack=True),
    "transformers": ours,
    "int8": ours,
    "llama.cpp": by_llama_cpp,
    "llama.cpp, drafted": by_llama_cpp,
    "openvino": by_openvino,
    "self": same_vocabulary,
    "machine": machine,
}
CHOICES = [name for name in WORK if name not in ("llama.cpp, drafted", "machine")]
USUAL = ["generate", "transformers", "int8", "llama.cpp"]
READS_GGUF: dict[str, Any] = {"llama.cpp": llama_cpp, "openvino": openvino}  # the peers that are not torch


def memory(when: str) -> dict:
    return {"when": when, "peak_bytes": peak_resident_bytes()}


def peak_resident_bytes() -> int:
    """The most memory that this process had at once, mapped files included.

    Linux hands a new process the peak of the one that started it in `ru_maxrss`; VmHWM is its own.
    """
    import resource
    import sys

    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --- a process a peer -------------------------------------------------------------------------------------------------


def measured(task: Task) -> Found:
    """What the peer yields in a process of its own, as it comes; ("about", {"not_measured": why}) where it cannot be had."""
    context = multiprocessing.get_context("spawn")
    ours_end, its_end = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(task, its_end))
    process.start()
    its_end.close()
    try:
        while (message := ours_end.recv()) is not None:
            yield message
        process.join(10)
    except EOFError:  # it died: killed for its memory, or by an error whose traceback it printed
        process.join()
        yield "about", {"not_measured": f"its process ended early (exit status {process.exitcode})"}
    finally:  # after Ctrl-C too
        process.terminate()
        process.join()


def work(task: Task, answers) -> None:
    """In the new process. Ctrl-C at a terminal reaches it too; what it sent until then is the parent's."""
    try:
        for message in WORK[task.peer](task):
            answers.send(message)
        answers.send(None)
    except Problem as problem:
        answers.send(("about", {"not_measured": str(problem)}))
        answers.send(None)
    except KeyboardInterrupt:
        pass


# --- at the terminal --------------------------------------------------------------------------------------------------


def print_result(result: dict) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "tokens/s", "× llama.cpp", "× generate", "× no draft", "first token, s", "tokens/block", "peak GiB"):
        table.add_column(name, justify="left" if not name else "right")
    for row in result["summary"]:
        cells = [row["tokens_per_second"], row["over_llama_cpp"], row["over_generate"], row["over_no_draft"]]
        cells += [row["first_token_seconds"], row.get("block_efficiency"), peak_gib(result["about"].get(row["peer"], {}))]
        table.add_row(name_of(row), *("" if cell is None else f"{cell:.2f}" for cell in cells))
    console().print(table)
    for peer, about in result["about"].items():
        if reason := about.get("not_measured"):
            print(f"{peer}: {reason}")  # in a column of the table it would be broken into short lines
    if same := result["about"].get("self"):
        print(
            f"SmolLM2 for itself, K={same['k']}: ours {same['ours']:.1f}, assisted {same['assisted_generation']:.1f} tokens/s"
        )
    for row in result["summary"]:
        if parts := row.get("seconds_per_block"):
            floor = row.get("floor_per_block")
            least = f"; at least {sum(floor.values()) * 1000:.0f} on this machine" if floor else ""
            times = ", ".join(f"{part} {seconds * 1000:.0f}" for part, seconds in parts.items())
            print(f"{name_of(row)}: milliseconds a block: {times}{least}")


def name_of(row: dict) -> str:
    return row["peer"] + (f", {row['draft']}, K={row['k']}" if row["draft"] else "")


def peak_gib(about: dict) -> float | None:
    found = about.get("memory")
    return found[-1]["peak_bytes"] / 2**30 if found else None


def chosen_peers(texts: list[str], ks: Iterable[int]) -> dict[str, tuple[int, ...]]:
    """`int8` → the lengths of --k, `int8=1,2` → these.

    Raises:
        Problem: no such peer, one named twice, or no lengths behind its "=".
    """
    peers: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, lengths = text.partition("=")
        numbers = lengths.split(",") if equals else []
        if name not in CHOICES or name in peers or not all(number.isdecimal() and int(number) for number in numbers):
            raise Problem(
                f"--peers {' '.join(texts)} is not of the form: PEER or PEER=K,K …, each once, of {', '.join(CHOICES)}."
            )
        peers[name] = tuple(map(int, numbers)) or tuple(ks)
    return peers


def read_prompts(args: argparse.Namespace, pair: Pair) -> list[tuple[str, list[int]]]:
    """The prompts and their tokens in the verifier's ids.

    Raises:
        Problem: there is none, or one is too long for the verifier.
    """
    from transformers import AutoConfig

    texts = [row["prompt"] for file in args.prompts for row in read_jsonl(file, required=("prompt",))][: args.limit]
    if not texts:
        raise Problem(f'{" ".join(args.prompts)} holds no prompt. Give a file with one {{"prompt": …}} a line.')
    tokenizer = load_tokenizer(pair.verifier)
    context = context_of(load_pretrained(AutoConfig, pair.verifier)) or 0
    prompts = []
    for text in texts:
        ids = prompt_token_ids(tokenizer, text)
        needed = max(len(ids) + args.max_new_tokens, *args.lengths, 0)
        if 0 < context < needed:
            raise Problem(
                f"'{text[:40]}…' has {len(ids)} tokens; {needed} in all exceeds the context of {context} of the verifier. "
                "Leave it out, or lower --max-new-tokens or --lengths."
            )
        prompts.append((text, ids))
    return prompts


def tasks(args: argparse.Namespace, pair: Pair) -> Iterator[Task | tuple[str, str]]:
    """What every peer's process is told, or (peer, why it cannot be measured)."""
    import torch

    task = Task(
        "machine",
        pair,
        read_prompts(args, pair),
        tuple(args.k),
        named_drafts(args.drafts),
        args.max_new_tokens,
        args.seed,
        torch.get_num_threads(),
        tuple(args.lengths),
    )
    if not torch.cuda.is_available():
        yield task
    for peer, ks in chosen_peers(args.peers, args.k).items():
        task = replace(task, peer=peer, ks=ks)
        if peer in READS_GGUF:
            yield from gguf_tasks(task, args)
        else:
            yield task


def gguf_tasks(task: Task, args: argparse.Namespace) -> Iterator[Task | tuple[str, str]]:
    peer = task.peer
    if not READS_GGUF[peer].is_installed():
        yield peer, "not installed"
        return
    try:
        task = replace(task, gguf=llama_cpp.gguf_of(task.pair.verifier, args.llama_cpp))
        yield task
        draft = args.llama_cpp_draft
        if draft and peer == "llama.cpp":
            peer = "llama.cpp, drafted"
            file = llama_cpp.gguf_of(named_model(draft), Path(draft) if Path(draft).is_file() else None)
            for k in task.ks:  # a process each, or two servers would be in memory at once
                yield replace(task, peer=peer, gguf_draft=file, ks=(k,))
    except Problem as problem:
        yield peer, str(problem)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="+", default=USUAL, metavar="PEER[=K,K]", help=f"what to measure (default: {' '.join(USUAL)})"
    )
    parser.add_argument(
        "--drafts", nargs="+", default=["base"], metavar="NAME[=PATH]", help="base distilled=adapters/distilled …; base alone"
    )
    parser.add_argument("--prompts", nargs="+", default=["domains/study0.jsonl"], metavar="FILE")
    parser.add_argument("--k", type=positive_int, nargs="+", default=range(1, 9), help="draft lengths (default 1 to 8)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="(default 64)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N prompts")
    parser.add_argument(
        "--lengths", type=positive_int, nargs="+", default=[], metavar="N", help="also one more token behind texts of N tokens"
    )
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="FILE", help="the verifier's GGUF file, for openvino too (default: the pair's own)"
    )
    parser.add_argument(
        "--llama-cpp-draft", metavar="FILE_OR_ID", help="llama.cpp drafts too: a draft's GGUF file, or the id of a pair's model"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser)
    args = parser.parse_args()
    if args.max_new_tokens < 2:
        raise Problem("--max-new-tokens must be at least 2: the last token of an answer is never drafted.")
    if args.llama_cpp and not args.llama_cpp.is_file():
        raise Problem(f"no GGUF file at {args.llama_cpp}. Check the path.")
    draft = args.llama_cpp_draft
    if draft and not Path(draft).is_file() and named_model(draft).gguf is None:
        raise Problem(f"no GGUF file at {draft}, and none is known for a model of that name. Check the path.")
    chosen_peers(args.peers, args.k)
    named_drafts(args.drafts)
    check_outputs(args.json, inputs=args.prompts)
    return args


def main() -> None:
    args = parse_arguments()
    pair = choose_pair(args)
    conditions = {
        "temperature": Settings().temperature,
        "max_new_tokens": args.max_new_tokens,
        "seed": args.seed,
        "drafts": named_drafts(args.drafts),
        "peers": chosen_peers(args.peers, args.k),
    }
    result: dict = {"pair": pair.name, **provenance(conditions), "summary": [], "about": {}, "rows": [], "interrupted": True}
    try:
        for task in tasks(args, pair):
            if isinstance(task, tuple):
                note(result, task[0], "about", {"not_measured": task[1]})
                continue
            conditions["prompts"] = len(task.prompts)
            say(f"{task.peer} …")
            for kind, found in measured(task):
                note(result, task.peer, kind, found)
                keep(result, args)
        result["interrupted"] = False
    finally:  # also after Ctrl-C: what was measured
        if result["about"] or result["rows"]:  # else the file may hold an earlier benchmark, which must not be lost
            keep(result, args)
            show(result, args)
    failed = [about["not_measured"] for about in result["about"].values() if "not_measured" in about]
    if failed and not result["rows"]:
        raise Problem(f"nothing could be measured: {failed[0]}")


def note(result: dict, peer: str, kind: str, found: dict) -> None:
    """Adds what a peer's process said; a later word on the same thing replaces the earlier one."""
    if kind == "row":
        result["rows"].append({"peer": peer, **found})
    else:
        result["about"][peer] = result["about"].get(peer, {}) | found
        if "not_measured" in found:
            say(f"{peer} was not measured: {found['not_measured']}")
    result["summary"] = summarize_rows(result["rows"], result["about"])


def show(result: dict, args) -> None:
    if args.json == "-":
        put_json(result, args.json)
    else:
        print_result(result)
    if result["interrupted"] and result["rows"]:
        say(f"stopped before the end; {len(result['rows'])} texts were measured.")


def keep(result: dict, args) -> None:
    """Writes what is measured so far, so that nothing of it is lost."""
    if args.json and args.json != "-":
        put_json(result, args.json)


if __name__ == "__main__":
    run(main)

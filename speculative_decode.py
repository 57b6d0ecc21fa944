"""Speculative decoding from scratch: a small draft proposes K tokens, the verifier checks them in one pass.

One block of the loop (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1; p = verifier, q = draft):

  1. draft    the draft samples K tokens t_1 … t_K, one by one, each from its q_i
  2. verify   the verifier reads them in ONE forward pass, which yields p_1 … p_K and p_{K+1}
  3. accept   keep t_i with probability min(1, p_i(t_i) / q_i(t_i)), up to the first rejection
  4. correct  there, sample the token from normalize(max(0, p_i − q_i)) instead
  5. free     if all K are kept, sample one more token from p_{K+1}

The text has exactly the distribution of the verifier alone; only the time differs. p and q are those really sampled from:
after temperature, top-k and top-p. Temperature 0 is a path of its own (argmax, no softmax). Where the draft's own context
ends, it stops drafting, and the verifier goes on alone.

The ledger of the two KV caches. With `length` tokens of text, the verifier's cache holds length − 1 of them at every
block boundary (the last token is not read yet). A block of K drafts with n accepted emits n + 1 tokens:

             reads in the block             then drops         and still has to read
  verifier   the last token, t_1 … t_K      K − n              the new last token
  draft      what it has not read yet,      max(K − 1 − n, 0)  the new last token; and t_K before it, if n = K
             then t_1 … t_{K−1}

    python speculative_decode.py --mode compare --prompt "What screen reader works best for blind users?"
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.answers import prompt_ids
from specdec.backend import Backend
from specdec.draft_length import AUTO, BLOCKS, LONGEST, Measured, best_length, measured, why
from specdec.engine import Engine
from specdec.files import BadLine, read_jsonl, write_whole
from specdec.models import add_model_arguments, choose_pair
from specdec.ngram import table_of
from specdec.provenance import peak_memory_bytes, provenance
from specdec.sampling import Settings, add_sampling_arguments, as_conditions, draw, read_settings, to_probs
from specdec.show import Printer, TraceWriter, print_report, put
from specdec.terminal import Problem, check_outputs, console, put_json, run, say, utf8
from specdec.trace import Block, Run, summarize
from specdec.vocabulary import VocabularyMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor


# --- the rule: pure functions of tensors ------------------------------------------------------------------------------


def verify_draft(
    verifier_probs: Tensor, draft_probs: Tensor, draft_tokens: Tensor, generator: torch.Generator | None = None
) -> tuple[int, int]:
    """Accepts a prefix of the draft and samples the token that follows it (Leviathan et al. 2023, algorithm 1).

    Args:
        verifier_probs: [K+1, V] float32, the verifier's p at each draft position and after the last; K may be 0.
        draft_probs: [K, V] float32, the draft's q that each draft token was sampled from.
        draft_tokens: [K] int64, the tokens sampled from it.
        generator: source of the K uniform numbers and the one sample; on the tensors' device.

    Returns:
        (n_accepted, next_token): the number of drafts accepted, 0 to K, and the token that follows them: a sample of
        the residual max(0, p − q) at the first rejected position, or of p at position K+1 if none was rejected.
    """
    import torch

    count = len(draft_tokens)
    rows = torch.arange(count, device=verifier_probs.device)
    p, q = verifier_probs[rows, draft_tokens], draft_probs[rows, draft_tokens]
    uniform = torch.rand(count, generator=generator, device=verifier_probs.device)
    accepted = uniform * q < p  # u < p/q without the division; p = 0 is never accepted
    n_accepted = int(accepted.long().cumprod(0).sum())
    weights = verifier_probs[n_accepted]
    if n_accepted < count:
        residual = (weights - draft_probs[n_accepted]).clamp(min=0)
        # p < q somewhere implies p > q elsewhere, but for float rounding when the two are equal to seven digits.
        weights = residual if residual.sum() > 0 else weights
    return n_accepted, int(draw(weights, generator))


def verify_greedy(verifier_logits: Tensor, draft_tokens: Tensor) -> tuple[int, int]:
    """The rule at temperature 0: accept while the draft's token is the verifier's argmax; shapes as `verify_draft`."""
    best = verifier_logits.argmax(-1)
    n_accepted = int((best[:-1] == draft_tokens).long().cumprod(0).sum())
    return n_accepted, int(best[n_accepted])


# --- the draft's side of a block --------------------------------------------------------------------------------------


class Drafter:
    """The draft model's side of a block: proposes tokens in the verifier's ids, and keeps its own context in step.

    With overlapping vocabularies q is the draft's distribution restricted to the shared tokens and renormalised before
    sampling (Token-Level Intersection: Timor et al. 2025, arXiv 2502.05202). Identical ones share every token.
    """

    def __init__(self, model: Backend, shared: VocabularyMap, verifier_rows: int):
        import torch

        self.model, self.shared, self.verifier_rows = model, shared, verifier_rows
        self.draft_ids = torch.tensor(shared.draft_ids, device=model.device)
        self.verifier_ids = torch.tensor(shared.verifier_ids, device=model.device)
        self.unread: list[int] = []

    def start(self, prompt: list[int]) -> None:
        """Reads all but the last token of `prompt`, which is in the draft's own ids."""
        self.model.start()
        if len(prompt) > 1:
            self.model.feed(prompt[:-1])
        self.unread = prompt[-1:]

    def own_prompt(self, verifier_prompt: list[int], draft_prompt: list[int]) -> list[int]:
        """Which of `Engine.prompt_ids` this draft reads: an n-gram table reads the verifier's tokens, whatever the pair."""
        return verifier_prompt if self.shared.verdict == "identical" else draft_prompt

    def propose(self, k: int, settings: Settings, stop: frozenset[int], generator) -> tuple[Tensor, Tensor]:
        """Samples up to `k` tokens, fewer if one of them ends the text, and none behind the draft's own context.

        A token whose q is below `settings.stop_below` is the last one, and is verified like the others. Whether a position
        is verified then depends on the tokens before it, never on its own, which keeps the text the verifier's. Taking that
        token back instead would not (tests/test_exactness.py).

        Returns:
            draft_tokens [K] in the verifier's ids and draft_probs [K, V] over its rows (all zero at temperature 0).
        """
        import torch

        tokens: list[int] = []
        probs = torch.zeros(k, self.verifier_rows, device=self.model.device)
        ended = False
        while len(tokens) < k and not ended and self.model.has_room(len(self.unread)):
            logits = self.model.feed(self.unread)[:, self.draft_ids]
            if settings.temperature == 0:
                choice = int(logits.argmax())
            else:
                q = to_probs(logits, settings)[0]
                choice = int(draw(q, generator))
                probs[len(tokens), self.verifier_ids] = q
                ended = bool(q[choice] < settings.stop_below)
            tokens.append(self.shared.verifier_ids[choice])
            ended = ended or tokens[-1] in stop
            self.unread = [self.shared.draft_ids[choice]]
        return torch.tensor(tokens, dtype=torch.long, device=self.model.device), probs[: len(tokens)]

    def settle(self, drafted: int, accepted: int, next_token: int) -> None:
        """Takes back what was rejected and notes what is to be read: the ledger's lower row."""
        self.model.drop(max(drafted - 1 - accepted, 0))
        last_draft = self.unread if accepted == drafted else []  # sampled last, never read
        self.unread = last_draft + self.shared.translate([next_token])


# --- the loop ---------------------------------------------------------------------------------------------------------


def prefill(
    verifier: Backend, prompt: list[int], drafter: Drafter | None = None, draft_prompt: list[int] | None = None
) -> float:
    """Both models read all but the last token of the prompt; returns the seconds that took."""
    started = time.perf_counter()
    verifier.start()
    if len(prompt) > 1:
        verifier.feed(prompt[:-1])
    if drafter:
        drafter.start(draft_prompt or prompt)
    return time.perf_counter() - started


def decode(
    verifier: Backend,
    last: int,
    settings: Settings,
    stop: frozenset[int],
    generator: torch.Generator | None,
    drafter: Drafter | None = None,
) -> Iterator[Block]:
    """Decodes after `prefill`, whose prompt ended in the token `last`, and yields a block per verifier pass.

    Without a `drafter` every block is one token: the plain autoregressive verifier, by the same code.
    """
    left = settings.max_new_tokens
    while left > 0:
        block = _block(verifier, drafter, last, min(settings.k, left - 1), settings, stop, generator)
        yield block
        last, left = block.tokens[-1], left - len(block.tokens)
        if last in stop:  # not asked of the prompt, which may end in one: Phi-3's ends in <|assistant|>
            break


def _block(
    verifier: Backend, drafter: Drafter | None, last: int, k: int, settings: Settings, stop: frozenset[int], generator
) -> Block:
    import torch

    started, spent = time.perf_counter(), _forward_seconds(verifier, drafter)
    if drafter:
        draft_tokens, draft_probs = drafter.propose(k, settings, stop, generator)
    else:
        draft_tokens, draft_probs = torch.empty(0, dtype=torch.long, device=verifier.device), None
    drafted = len(draft_tokens)
    logits = verifier.feed([last, *draft_tokens.tolist()], keep=drafted + 1)
    p, q, overlap = [], [], []
    if settings.temperature == 0:
        accepted, next_token = verify_greedy(logits, draft_tokens)
    else:
        verifier_probs = to_probs(logits, settings)
        if draft_probs is None:
            draft_probs = verifier_probs[:0]
        accepted, next_token = verify_draft(verifier_probs, draft_probs, draft_tokens, generator)
        tested = min(accepted + 1, drafted)
        p, q = (probs[range(tested), draft_tokens[:tested]].tolist() for probs in (verifier_probs, draft_probs))
        overlap = torch.minimum(verifier_probs[:tested], draft_probs[:tested]).sum(-1).tolist()
    verifier.drop(drafted - accepted)
    if drafter:
        drafter.settle(drafted, accepted, next_token)
    draft_ids = draft_tokens.tolist()
    tokens = until_stop([*draft_ids[:accepted], next_token], stop)
    draft_seconds, verify_seconds = (
        now - before for now, before in zip(_forward_seconds(verifier, drafter), spent, strict=True)
    )
    return Block(
        tuple(draft_ids),
        tuple(p),
        tuple(q),
        tuple(overlap),
        accepted,
        next_token,
        tuple(tokens),
        time.perf_counter() - started,
        draft_seconds,
        verify_seconds,
    )


def _forward_seconds(verifier: Backend, drafter: Drafter | None) -> tuple[float, float]:
    return drafter.model.seconds if drafter else 0.0, verifier.seconds


def until_stop(tokens: list[int], stop: frozenset[int]) -> list[int]:
    """The tokens up to the first stop token, which is kept."""
    end = next((position + 1 for position, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]


def load_drafter(engine: Engine, adapter_path: str | Path | None = None) -> tuple[Drafter, str]:
    """A draft for the engine's verifier, and whether its adapter is "none", "merged" or "attached", or it is a "table"."""
    if table := table_of(adapter_path):
        counted = engine.count_table(*table)
        return Drafter(counted, counted.shared, engine.rows), "table"
    model, state = engine.load_draft(adapter_path)
    return Drafter(model, engine.shared, engine.rows), state


def run_prompt(
    engine: Engine,
    prompt: str,
    draft: str,
    settings: Settings,
    seed: int,
    drafter: Drafter | None = None,
    on_block=lambda block: None,
    ids: tuple[list[int], list[int]] | None = None,
) -> Run:
    """Decodes one prompt with the draft that is called `draft`. `ids`: as both models read it (`specdec.answers.prompt_ids`).

    Ctrl-C and SIGTERM end the text early; what was generated and measured so far is returned, marked as interrupted.
    """
    import torch

    verifier_prompt, draft_prompt = ids or engine.prompt_ids(prompt, settings)
    generator = torch.Generator(device=engine.verifier.device).manual_seed(seed)
    blocks: list[Block] = []
    seconds, interrupted = 0.0, False
    if drafter:
        draft_prompt = drafter.own_prompt(verifier_prompt, draft_prompt)
    try:
        with torch.inference_mode():
            seconds = prefill(engine.verifier, verifier_prompt, drafter, draft_prompt)
            for block in decode(engine.verifier, verifier_prompt[-1], settings, engine.stop, generator, drafter):
                blocks.append(block)
                on_block(block)
    except KeyboardInterrupt:
        interrupted = True
    tokens = [token for block in blocks for token in block.tokens]
    text = engine.tokenizer.decode(tokens, skip_special_tokens=True)
    return Run(prompt, draft, seed, text, seconds, tuple(blocks), interrupted)


def measure_steps(
    engine: Engine, ids: tuple[list[int], list[int]], drafter: Drafter, settings: Settings, seed: int
) -> Measured:
    """Decodes the beginning of a text, which nobody sees, to learn what steps cost and how far drafts are accepted.

    Its random numbers are not those of the run, whose seed is `seed`: K must not depend on the draws that it is chosen for, or
    texts that suit a long draft would come more often than the verifier writes them.
    """
    import torch

    verifier_prompt, draft_prompt = ids
    generator = torch.Generator(device=engine.verifier.device).manual_seed(seed ^ 1)
    with torch.inference_mode():
        prefill(engine.verifier, verifier_prompt, drafter, drafter.own_prompt(verifier_prompt, draft_prompt))
        text = decode(engine.verifier, verifier_prompt[-1], replace(settings, k=LONGEST), engine.stop, generator, drafter)
        blocks = list(islice(text, BLOCKS))
    return measured(blocks, engine.verifier)


def with_best_length(
    engine: Engine, ids: tuple[list[int], list[int]], drafters: dict, settings: Settings, seed: int
) -> tuple[Settings, dict]:
    """The settings with the K that is best for these drafts together, and what it rests on, for --json."""
    found = {}
    for name, (drafter, _) in drafters.items():
        if drafter:
            found[name] = measure_steps(engine, ids, drafter, settings, seed)
    k = best_length(list(found.values()))
    say(why(k, found))
    return replace(settings, k=k), {"k": k, "drafts": {name: each.as_row() for name, each in found.items()}}


# --- at the terminal --------------------------------------------------------------------------------------------------


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of --prompt or --prompts-file, all of them checked before the first is decoded."""
    if (args.prompt is None) == (args.prompts_file is None):
        raise Problem("give one of --prompt TEXT and --prompts-file FILE.")
    if args.prompts_file:
        try:
            prompts = [row["prompt"] for row in read_jsonl(args.prompts_file, required=("prompt",))]
        except FileNotFoundError:
            raise Problem(f'no file {args.prompts_file}. Give a file with one {{"prompt": …}} a line.') from None
        except BadLine as error:
            raise Problem(f"{error}. Correct that line; nothing was decoded yet.") from None
        if not prompts:
            raise Problem(f'{args.prompts_file} holds no prompt. Give a file with one {{"prompt": …}} a line.')
        return prompts
    if not args.prompt.strip():
        raise Problem("the prompt is empty. Give some text after --prompt.")
    return [args.prompt]


def named_drafts(texts: list[str]) -> dict[str, str | None]:
    """`base` → no adapter, `dpo=final_adapter` → the adapter in that folder, in the order given.

    Raises:
        Problem: a draft without an adapter that is not called base, one called verifier, or a name given twice.
    """
    drafts: dict[str, str | None] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or name == "verifier" or name in drafts or (name == "base") != (not path):
            raise Problem(
                f"--drafts {' '.join(texts)} is not of the form: base NAME=ADAPTER …, each name once and none called verifier."
            )
        drafts[name] = path or None
    return drafts


def chosen_drafts(args: argparse.Namespace) -> dict[str, str | None]:
    """The drafts of --mode, or those of --drafts."""
    if args.drafts and args.mode != "compare":
        raise Problem("--drafts goes with --mode compare.")
    if args.drafts:
        return named_drafts(args.drafts)
    modes = {"compare": ["base", "dpo"], "verifier": []}.get(args.mode, [args.mode])
    return {mode: args.adapter_path if mode == "dpo" else None for mode in modes}


def result_row(run: Run, adapter: str, baseline: float | None) -> dict:
    """A run as --json keeps it: what was decoded, the metrics of `summarize`, the speed-up over the plain verifier."""
    metrics = summarize(run)
    speedup = (metrics["tokens_per_second"] or 0) / baseline if baseline else None
    return {
        "prompt": run.prompt,
        "draft": run.draft,
        "seed": run.seed,
        "text": run.text,
        "token_ids": run.token_ids,
        **metrics,
        "interrupted": run.interrupted,
        "speedup": speedup,
        "adapter": adapter,
    }


def pair_row(engine: Engine) -> dict:
    """What --json says of the models, JSON-ready."""
    pair = engine.pair
    return {
        "name": pair.name,
        "draft": pair.draft.id,
        "verifier": pair.verifier.id,
        "quantization": pair.quantization,
        "backend": pair.backend,
        "vocabulary": engine.shared.verdict,
    }


def draft_length(text: str) -> int | str:
    """An argparse type: a number, or auto."""
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a number of tokens or {AUTO} is expected") from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mode",
        choices=("base", "dpo", "compare", "verifier"),
        default="base",
        help="which draft: base, dpo (with the adapter), compare (both, or --drafts), or the verifier alone",
    )
    parser.add_argument(
        "--drafts",
        nargs="+",
        metavar="NAME[=PATH]",
        help="drafts to compare: base dpo=final_adapter …; trigram=ANSWERS.jsonl, bigram=ANSWERS.jsonl:2: tables of n-grams",
    )
    parser.add_argument("--prompt", type=utf8, help="one prompt")
    parser.add_argument("--prompts-file", type=Path, metavar="FILE", help='many: one {"prompt": …} a line')
    parser.add_argument("--adapter-path", default="./final_adapter", help="LoRA adapter of the dpo draft (default %(default)s)")
    add_sampling_arguments(parser, draft_length, "draft length K (default 4), or auto: the one that should be fastest here")
    parser.add_argument("--raw", action="store_true", help="no chat template: the text goes on where the prompt ends")
    parser.add_argument("--no-baseline", action="store_true", help="skip the plain verifier; no speed-up is reported then")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write every block as JSON Lines, for a viewer")
    add_model_arguments(parser, decodes=True)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    check_outputs(args.json, args.trace, inputs=[args.prompts_file] if args.prompts_file else [])
    prompts, drafts, choose_k = read_prompts(args), chosen_drafts(args), args.k == AUTO
    if choose_k and not drafts:
        raise Problem("--k auto chooses a draft's length, and --mode verifier has no draft. Leave one of them out.")
    if choose_k and args.stop_below:
        raise Problem("--k auto measures drafts of one length, and --stop-below ends them earlier. Leave one of them out.")
    if choose_k:
        args.k = LONGEST  # until it is chosen
    settings = read_settings(args)
    pair = choose_pair(args)
    if args.trace:
        write_whole(args.trace, "")
    engine = Engine(pair, drafts.values())
    drafters: dict[str, tuple[Drafter | None, str]] = {name: load_drafter(engine, path) for name, path in drafts.items()}
    if args.mode == "verifier" or not args.no_baseline:
        drafters = {"verifier": (None, "none"), **drafters}
    # A prompt that does not fit is refused before the first is decoded.
    read = [prompt_ids(engine, {"prompt": prompt}, settings, raw=args.raw) for prompt in prompts]
    chosen: dict = {}
    if choose_k:
        settings, chosen = with_best_length(engine, read[0], drafters, settings, args.seed)
    prompted = {"raw": True} if args.raw else {}
    trace = TraceWriter(args.trace, engine, settings, prompted) if args.trace else None
    output = console(stderr=args.json == "-")
    result = {
        "pair": pair_row(engine),
        **provenance({**as_conditions(settings), **prompted, "seed": args.seed, "adapters": drafts}),
        "runs": [],
    }
    if chosen:
        result["k_auto"] = chosen
    interrupted = False
    for prompt, ids in zip(prompts, read, strict=True):
        rows = decode_with_all(engine, prompt, ids, drafters, settings, args.seed, output, trace)
        interrupted = rows[-1]["interrupted"]
        result["runs"] += rows
        result["peak_memory_bytes"] = peak_memory_bytes()
        if args.json and args.json != "-":  # after every prompt, so that a run of many loses none
            put_json(result, args.json)
        output.print()
        print_report(output, rows)
        if interrupted:
            say("stopped before the end; the metrics are of what was decoded until then.")
            break
    if args.json == "-":
        put_json(result, args.json)
    return 130 if interrupted else 0


def decode_with_all(
    engine: Engine,
    prompt: str,
    ids: tuple[list[int], list[int]],
    drafters: dict,
    settings: Settings,
    seed: int,
    output,
    trace: TraceWriter | None,
) -> list[dict]:
    """Decodes one prompt with every draft in turn, streaming the texts; returns a row a draft. `ids` as in `run_prompt`."""
    rows: list[dict] = []
    baseline = None
    for name, (drafter, adapter) in drafters.items():
        put(output, f"\n[{name}] {prompt}", end="\n")
        printer = Printer(output, engine.tokenizer)
        if trace:
            trace.start(prompt, name, seed)

        def show(block: Block, printer=printer) -> None:
            if trace:
                trace(block)
            try:
                printer(block)
            except SystemExit:  # rich's answer to a reader of stdout who left: what was decoded is kept, as after Ctrl-C
                raise KeyboardInterrupt from None

        decoded = run_prompt(engine, prompt, name, settings, seed, drafter, show, ids)
        output.print()
        rows.append(result_row(decoded, adapter, baseline))
        if name == "verifier":
            baseline = rows[-1]["tokens_per_second"]
            rows[-1]["speedup"] = 1.0 if baseline else None
        if decoded.interrupted:
            break
    return rows


if __name__ == "__main__":
    run(main)

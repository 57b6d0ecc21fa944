"""Speculative decoding from scratch: a small draft proposes K tokens, the verifier checks them in one pass.

One block of the loop (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1; p = verifier, q = draft):

  1. draft    the draft samples K tokens t_1 … t_K, one by one, each from its q_i
  2. verify   the verifier reads them in ONE forward pass, which yields p_1 … p_K and p_{K+1}
  3. accept   keep t_i with probability min(1, p_i(t_i) / q_i(t_i)), up to the first rejection
  4. correct  there, sample the token from normalize(max(0, p_i − q_i)) instead
  5. free     if all K are kept, sample one more token from p_{K+1}

The text has exactly the law of the verifier alone; only the time differs. p and q are the distributions really sampled:
after temperature, top-k and top-p. Temperature 0 is a path of its own (argmax, no softmax).

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from check_vocab_compatibility import VocabularyMap, named_tokens, vocabulary_map
from environment import environment, peak_memory_bytes
from jsonl import BadLine, append_jsonl, read_jsonl, write_whole
from models import (
    Pair,
    add_model_arguments,
    chat_text,
    choose_pair,
    load_adapter,
    load_model,
    load_tokenizer,
    pack_linears,
    stop_ids,
    token_ids,
)
from terminal import Problem, console, put_json, run, say

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import GenerationConfig


@dataclass(frozen=True)
class Settings:
    k: int = 4
    temperature: float = 0.7
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    max_new_tokens: int = 200


# --- the rule: pure functions of tensors ------------------------------------------------------------------------------

def to_probs(logits: Tensor, settings: Settings) -> Tensor:
    """Turns logits [n, V] into the float32 distributions [n, V] that are sampled: temperature, then top-k, then top-p.

    Top-p keeps the smallest set of most probable tokens whose mass reaches p, the boundary token included
    (Holtzman et al. 2020, arXiv 1904.09751, equation 2).
    """
    logits = logits.float() / settings.temperature
    if settings.top_k:
        smallest_kept = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if settings.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        mass_before = probs.cumsum(-1) - probs
        dropped = (mass_before >= settings.top_p).scatter(-1, order, mass_before >= settings.top_p)
        logits = logits.masked_fill(dropped, float("-inf"))
    return logits.softmax(-1)


def verify_draft(target_probs: Tensor, draft_probs: Tensor, draft_tokens: Tensor,
                 generator: torch.Generator | None = None) -> tuple[int, int]:
    """Accepts a prefix of the draft and samples the token that follows it (Leviathan et al. 2023, algorithm 1).

    Args:
        target_probs: [K+1, V] float32, the verifier's p at each draft position and after the last; K may be 0.
        draft_probs: [K, V] float32, the draft's q that each draft token was sampled from.
        draft_tokens: [K] int64, the tokens sampled from it.
        generator: source of the K uniform numbers and the one sample; on the tensors' device.

    Returns:
        (n_accepted, next_token): the number of drafts accepted, 0 to K, and the token that follows them: a sample of
        the residual max(0, p − q) at the first rejected position, or of p at position K+1 if none was rejected.
    """
    import torch

    count = len(draft_tokens)
    rows = torch.arange(count, device=target_probs.device)
    p, q = target_probs[rows, draft_tokens], draft_probs[rows, draft_tokens]
    uniform = torch.rand(count, generator=generator, device=target_probs.device)
    accepted = uniform * q < p  # u < p/q without the division; p = 0 is never accepted
    n_accepted = int(accepted.long().cumprod(0).sum())
    weights = target_probs[n_accepted]
    if n_accepted < count:
        residual = (weights - draft_probs[n_accepted]).clamp(min=0)
        # p < q somewhere implies p > q elsewhere, but for float rounding when the two are equal to seven digits.
        weights = residual if residual.sum() > 0 else weights
    return n_accepted, int(torch.multinomial(weights, 1, generator=generator))


def verify_greedy(target_logits: Tensor, draft_tokens: Tensor) -> tuple[int, int]:
    """The rule at temperature 0: accept while the draft's token is the verifier's argmax; shapes as `verify_draft`."""
    best = target_logits.argmax(-1)
    n_accepted = int((best[:-1] == draft_tokens).long().cumprod(0).sum())
    return n_accepted, int(best[n_accepted])


# --- the two models behind the rule -----------------------------------------------------------------------------------

class CachedModel:
    """A causal language model and its KV cache: `feed` reads tokens, `drop` forgets the last of them.

    `seconds` is the time spent in forward passes since `start`.
    """

    def __init__(self, model, named_ids: set[int]):
        import torch

        self.model = model
        self.device = model.device
        # Logits rows that name no token (Phi-3: 53, Qwen: 271) must never be sampled, with or without a draft.
        unnamed = [row for row in range(model.config.vocab_size) if row not in named_ids]
        self.unnamed = torch.tensor(unnamed, dtype=torch.long, device=self.device)
        self.start()

    def start(self) -> None:
        from transformers import DynamicCache

        # Without the config every layer is a full one, also Phi-3's: a sliding layer could not take tokens back.
        # The sliding window still applies, through the attention mask.
        self.cache = DynamicCache()
        self.seconds = 0.0

    def feed(self, tokens: list[int], keep: int = 1) -> Tensor:
        """Reads `tokens` after what the cache holds; returns the logits [keep, V] after the last `keep` of them."""
        import torch

        started = time.perf_counter()
        logits = self.model(torch.tensor([tokens], device=self.device), past_key_values=self.cache, use_cache=True,
                            logits_to_keep=keep).logits[0]
        logits[:, self.unnamed] = float("-inf")
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        return logits

    def drop(self, count: int) -> None:
        if count:
            self.cache.crop(-count)  # transformers: a negative argument is a number of tokens to take off


class Drafter:
    """The draft model's side of a block: proposes tokens in the verifier's ids, and keeps its own context in step.

    With overlapping vocabularies q is the draft's distribution restricted to the shared tokens and renormalised before
    sampling (Token-Level Intersection: Timor et al. 2025, arXiv 2502.05202). Identical ones share every token.
    """

    def __init__(self, model: CachedModel, shared: VocabularyMap, target_rows: int):
        import torch

        self.model, self.shared, self.target_rows = model, shared, target_rows
        self.draft_ids = torch.tensor(shared.draft_ids, device=model.device)
        self.target_ids = torch.tensor(shared.target_ids, device=model.device)
        self.unread: list[int] = []

    def start(self, prompt: list[int]) -> None:
        """Reads all but the last token of `prompt`, which is in the draft's own ids."""
        self.model.start()
        if len(prompt) > 1:
            self.model.feed(prompt[:-1])
        self.unread = prompt[-1:]

    def propose(self, k: int, settings: Settings, stop: frozenset[int], generator) -> tuple[Tensor, Tensor]:
        """Samples up to `k` tokens, fewer if one of them ends the text.

        Returns:
            draft_tokens [K] in the verifier's ids and draft_probs [K, V] over its rows (all zero at temperature 0).
        """
        import torch

        tokens: list[int] = []
        probs = torch.zeros(k, self.target_rows, device=self.model.device)
        while len(tokens) < k and not (tokens and tokens[-1] in stop):
            logits = self.model.feed(self.unread)[:, self.draft_ids]
            if settings.temperature == 0:
                choice = int(logits.argmax())
            else:
                q = to_probs(logits, settings)[0]
                choice = int(torch.multinomial(q, 1, generator=generator))
                probs[len(tokens), self.target_ids] = q
            tokens.append(self.shared.target_ids[choice])
            self.unread = [self.shared.draft_ids[choice]]
        return torch.tensor(tokens, dtype=torch.long, device=self.model.device), probs[:len(tokens)]

    def settle(self, drafted: int, accepted: int, next_token: int) -> None:
        """Takes back what was rejected and notes what is to be read: the ledger's lower row."""
        self.model.drop(max(drafted - 1 - accepted, 0))
        last_draft = self.unread if accepted == drafted else []  # sampled last, never read
        self.unread = last_draft + self.shared.translate([next_token])


# --- the loop ---------------------------------------------------------------------------------------------------------

@dataclass
class Block:
    """One verifier pass, and one row of the trace. The first row of a run is the prefill: it emits nothing."""

    drafted: int
    accepted: int
    tokens: list[int]  # emitted: accepted drafts, then the verifier's own; cut after a stop token
    overlap: list[float] = field(default_factory=list)  # Σ_x min(p, q) at each position that was tested
    seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0


def decode(verifier: CachedModel, prompt: list[int], settings: Settings, stop: frozenset[int],
           generator: torch.Generator | None, drafter: Drafter | None = None,
           draft_prompt: list[int] | None = None) -> Iterator[Block]:
    """Decodes after `prompt` and yields block by block: the prefill first, then one block per verifier pass.

    Without a `drafter` every block is one token: the plain autoregressive verifier, by the same code.
    """
    clock = _Clock(verifier, drafter)
    verifier.start()
    if len(prompt) > 1:
        verifier.feed(prompt[:-1])
    if drafter:
        drafter.start(draft_prompt or prompt)
    yield clock.stamp(Block(0, 0, []))
    last, left = prompt[-1], settings.max_new_tokens
    while left > 0:
        clock.restart()
        block = _block(verifier, drafter, last, min(settings.k, left - 1), settings, stop, generator)
        yield clock.stamp(block)
        last, left = block.tokens[-1], left - len(block.tokens)
        if last in stop:  # not asked of the prompt, which may end in one: Phi-3's ends in <|assistant|>
            break


def _block(verifier: CachedModel, drafter: Drafter | None, last: int, k: int, settings: Settings,
           stop: frozenset[int], generator) -> Block:
    import torch

    if drafter:
        draft_tokens, draft_probs = drafter.propose(k, settings, stop, generator)
    else:
        draft_tokens, draft_probs = torch.empty(0, dtype=torch.long, device=verifier.device), None
    drafted = len(draft_tokens)
    logits = verifier.feed([last, *draft_tokens.tolist()], keep=drafted + 1)
    overlap = []
    if settings.temperature == 0:
        accepted, next_token = verify_greedy(logits, draft_tokens)
    else:
        target_probs = to_probs(logits, settings)
        if draft_probs is None:
            draft_probs = target_probs[:0]
        accepted, next_token = verify_draft(target_probs, draft_probs, draft_tokens, generator)
        tested = min(accepted + 1, drafted)
        overlap = torch.minimum(target_probs[:tested], draft_probs[:tested]).sum(-1).tolist()
    verifier.drop(drafted - accepted)
    if drafter:
        drafter.settle(drafted, accepted, next_token)
    return Block(drafted, accepted, until_stop([*draft_tokens[:accepted].tolist(), next_token], stop), overlap)


def until_stop(tokens: list[int], stop: frozenset[int]) -> list[int]:
    """The tokens up to the first stop token, which is kept."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]


class _Clock:
    """Wall-clock time of a block and of the forwards inside it; the caller's time between blocks is not counted."""

    def __init__(self, verifier: CachedModel, drafter: Drafter | None):
        self.models = (drafter.model if drafter else None, verifier)
        self.restart()
        self.before = (0.0, 0.0)  # the prefill starts both caches, and with them both counters

    def restart(self) -> None:
        self.before, self.started = self._spent(), time.perf_counter()

    def _spent(self) -> tuple[float, float]:
        return tuple(model.seconds if model else 0.0 for model in self.models)

    def stamp(self, block: Block) -> Block:
        block.seconds = time.perf_counter() - self.started
        block.draft_seconds, block.verify_seconds = (
            now - then for now, then in zip(self._spent(), self.before, strict=True))
        return block


# --- what is reported, all of it computed from the blocks -------------------------------------------------------------

def summarize(blocks: list[Block]) -> dict:
    """The figures of one run. `blocks[0]` is the prefill; its time counts as the run's.

    acceptance_rate is the seed's α: accepted / drafted. expected_acceptance is the mean of Σ_x min(p, q) over the
    positions tested (Leviathan et al. 2023, definition 3.1 with theorem 3.5): another quantity for K > 1, because
    drafts behind a rejection count as drafted and are never tested.
    """
    passes = blocks[1:]
    tokens = sum(len(block.tokens) for block in passes)
    seconds = sum(block.seconds for block in blocks)
    drafted, accepted = (sum(getattr(block, name) for block in passes) for name in ("drafted", "accepted"))
    overlaps = [value for block in passes for value in block.overlap]
    draft_seconds, verify_seconds = (sum(getattr(block, name) for block in blocks)
                                     for name in ("draft_seconds", "verify_seconds"))
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": accepted / drafted if drafted else None,
        "expected_acceptance": sum(overlaps) / len(overlaps) if overlaps else None,
        "block_efficiency": tokens / len(passes) if passes else None,
        "acceptance_by_position": acceptance_by_position(passes),
        "blocks": len(passes),
        "prefill_seconds": blocks[0].seconds,
        "draft_seconds": draft_seconds,
        "verify_seconds": verify_seconds,
        "other_seconds": seconds - draft_seconds - verify_seconds,
    }


def acceptance_by_position(blocks: list[Block]) -> list[float]:
    """Share accepted among the drafts tested at place 1, 2, … of a block; a place behind a rejection is not tested."""
    shares = []
    for place in range(max((block.drafted for block in blocks), default=0)):
        tested = [block for block in blocks if block.drafted > place and block.accepted >= place]
        if not tested:
            break
        shares.append(sum(block.accepted > place for block in tested) / len(tested))
    return shares


# --- loading ----------------------------------------------------------------------------------------------------------

class Engine:
    """A verifier with its tokenizer, and any number of drafts for it."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.tokenizer, self.draft_tokenizer = load_tokenizer(pair.verifier), load_tokenizer(pair.draft)
        self.shared = vocabulary_map(self.draft_tokenizer, self.tokenizer)
        if self.shared.verdict == "incompatible":
            raise Problem(f"{pair.draft.id} and {pair.verifier.id} share no vocabulary. "
                          "Choose a draft of the verifier's family; check_vocab_compatibility.py says more.")
        model = load_model(pair.verifier, pair.quantization)
        self.stop = stop_ids(model, self.tokenizer)
        use_plain_sampling(model)
        self.contexts = {"verifier": getattr(model.config, "max_position_embeddings", None)}
        self.verifier = CachedModel(pack_linears(model), set(named_tokens(self.tokenizer).values()))

    def load_drafter(self, adapter_path: str | Path | None = None) -> tuple[Drafter, str]:
        """Loads the draft, with an adapter or without; returns it and "none", "merged" or "attached"."""
        model, state = load_model(self.pair.draft, self.pair.quantization), "none"
        if adapter_path:
            model, state = load_adapter(model, adapter_path, self.pair.draft.id)
        self.contexts["draft"] = getattr(model.config, "max_position_embeddings", None)
        cached = CachedModel(pack_linears(model), set(named_tokens(self.draft_tokenizer).values()))
        return Drafter(cached, self.shared, self.verifier.model.config.vocab_size), state

    def prompt_ids(self, prompt: str, settings: Settings) -> tuple[list[int], list[int]]:
        """The prompt in the verifier's ids and in the draft's. Both models read one text: the verifier's template.

        Raises:
            Problem: prompt and answer together exceed the context of one of the models.
        """
        text = chat_text(self.tokenizer, prompt)
        target = token_ids(self.tokenizer, text)
        draft = target if self.shared.verdict == "identical" else self.draft_tokenizer(
            text, add_special_tokens=False)["input_ids"]
        # The draft may need more tokens of its own for what the verifier writes; twice as many leaves ample room.
        new = {"verifier": settings.max_new_tokens,
               "draft": settings.max_new_tokens * (1 if self.shared.verdict == "identical" else 2)}
        for name, context in self.contexts.items():
            length = len(target if name == "verifier" else draft)
            if context and length + new[name] > context:
                raise Problem(f"the prompt has {length} tokens; with {new[name]} new ones that exceeds the context of "
                              f"{context} of the {name}. Shorten the prompt or lower --max-new-tokens.")
        return target, draft

    def sampling_law(self, settings: Settings, **options) -> GenerationConfig:
        """What tells transformers' `generate` to sample from the same p as this engine; see `use_plain_sampling`."""
        from transformers import GenerationConfig

        return GenerationConfig(do_sample=True, temperature=settings.temperature, top_k=settings.top_k,
                                top_p=settings.top_p, max_new_tokens=settings.max_new_tokens, eos_token_id=sorted(self.stop),
                                pad_token_id=min(self.stop), suppress_tokens=self.verifier.unnamed.tolist() or None,
                                **options)


def use_plain_sampling(model) -> None:
    """Takes away the generation config that the model ships: `generate` fills whatever a law leaves open from it, and a
    repetition penalty or a min-p of its own would make another distribution than p."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def assistance(engine: Engine, assistant, settings: Settings) -> dict:
    """The options with which `generate` is assisted by a draft model, K tokens at a time."""
    assistant.generation_config.num_assistant_tokens = settings.k
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0
    if engine.shared.verdict == "identical":
        return {"assistant_model": assistant}
    return {"assistant_model": assistant, "tokenizer": engine.tokenizer, "assistant_tokenizer": engine.draft_tokenizer}


def run_prompt(engine: Engine, prompt: str, mode: str, settings: Settings, seed: int, drafter: Drafter | None = None,
               on_block=lambda block: None) -> dict:
    """Decodes one prompt and returns its run: mode, text, token ids, the figures of `summarize`, and the blocks.

    Ctrl-C ends the text early; what was generated and measured so far is returned with "interrupted" set.
    """
    import torch

    target, draft = engine.prompt_ids(prompt, settings)
    generator = torch.Generator(device=engine.verifier.device).manual_seed(seed)
    blocks: list[Block] = []
    interrupted = False
    try:
        with torch.inference_mode():
            for block in decode(engine.verifier, target, settings, engine.stop, generator, drafter, draft):
                blocks.append(block)
                on_block(block)
    except KeyboardInterrupt:
        interrupted = True
    ids = [token for block in blocks for token in block.tokens]
    return {"prompt": prompt, "mode": mode, "seed": seed, "text": engine.tokenizer.decode(ids, skip_special_tokens=True),
            "token_ids": ids, **summarize(blocks or [Block(0, 0, [])]), "interrupted": interrupted, "trace": blocks}


# --- at the terminal --------------------------------------------------------------------------------------------------

class Printer:
    """Streams a run as its blocks arrive: accepted draft tokens green and underlined, the verifier's own bold."""

    def __init__(self, console, tokenizer):
        self.console, self.tokenizer = console, tokenizer
        self.ids: list[int] = []
        self.printed = 0

    def __call__(self, block: Block) -> None:
        from rich.text import Text

        for place, token in enumerate(block.tokens):
            self.ids.append(token)
            text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
            if text.endswith("\ufffd"):  # half a character: its other bytes come with the next token
                continue
            style = "green underline" if place < block.accepted else "bold"
            self.console.print(Text(text[self.printed:], style=style), end="", soft_wrap=True)
            self.printed = len(text)


def print_report(console, runs: list[dict]) -> None:
    """One table for one prompt: a row a figure, a column a mode."""
    from rich.table import Table

    def percent(value):
        return "–" if value is None else f"{value:.1%}"

    rows = [
        ("tokens", lambda run: str(run["tokens"])),
        ("seconds", lambda run: f"{run['seconds']:.1f}"),
        ("tokens per second", lambda run: f"{run['tokens_per_second'] or 0:.2f}"),
        ("speed-up over plain verifier", lambda run: "–" if run["speedup"] is None else f"{run['speedup']:.2f}×"),
        ("block efficiency (tokens per verifier pass)", lambda run: f"{run['block_efficiency'] or 0:.2f}"),
        ("acceptance rate (accepted / drafted)", lambda run: percent(run["acceptance_rate"])),
        ("expected acceptance (mean Σ min(p, q))", lambda run: percent(run["expected_acceptance"])),
        ("acceptance by position in the block",
         lambda run: " ".join(f"{share:.0%}" for share in run["acceptance_by_position"]) or "–"),
        ("seconds in draft / verifier / rest",
         lambda run: f"{run['draft_seconds']:.1f} / {run['verify_seconds']:.1f} / {run['other_seconds']:.2f}"),
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for result in runs:
        table.add_column(result["mode"], justify="right")
    for name, show in rows:
        table.add_row(name, *(show(result) for result in runs))
    console.print(table)
    if any(result["adapter"] == "attached" for result in runs):
        console.print("The adapter runs unmerged beside 4-bit weights, so the dpo draft does more work per token than "
                      "the base draft: compare their acceptance, not their seconds.")


def read_prompts(args: argparse.Namespace) -> list[str]:
    """The prompts of --prompt or --prompts-file, all of them checked before the first is decoded."""
    if (args.prompt is None) == (args.prompts_file is None):
        raise Problem("give one of --prompt TEXT and --prompts-file FILE.")
    if args.prompts_file:
        try:
            prompts = [row["prompt"] for row in read_jsonl(args.prompts_file, required=("prompt",))]
        except FileNotFoundError:
            raise Problem(f"no file {args.prompts_file}. Give a file with one {{\"prompt\": …}} a line.") from None
        except BadLine as fault:
            raise Problem(f"{fault}. Mend that line; nothing was decoded yet.") from None
        if not prompts:
            raise Problem(f"{args.prompts_file} holds no prompt. Give a file with one {{\"prompt\": …}} a line.")
        return prompts
    if not args.prompt.strip():
        raise Problem("the prompt is empty. Give some text after --prompt.")
    return [args.prompt]


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `read_settings` reads."""
    parser.add_argument("--k", type=int, default=4, help="draft length K (default 4)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default 0.7)")
    parser.add_argument("--top-k", type=int, default=0, help="keep the k likeliest tokens (default 0: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest tokens up to this mass (default 1: all)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="(default 200)")


def read_settings(args: argparse.Namespace) -> Settings:
    settings = Settings(args.k, args.temperature, args.top_k, args.top_p, args.max_new_tokens)
    checks = ((settings.k >= 1, "--k must be at least 1; --mode verifier decodes without a draft."),
              (settings.temperature >= 0, "--temperature must be 0 (greedy) or more."),
              (settings.top_k >= 0, "--top-k must be 0 (off) or more."),
              (0 < settings.top_p <= 1, "--top-p must lie in (0, 1]; 1 turns it off."),
              (settings.max_new_tokens >= 1, "--max-new-tokens must be at least 1."))
    for fine, message in checks:
        if not fine:
            raise Problem(message)
    return settings


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("base", "dpo", "compare", "verifier"), default="base",
                        help="which draft: base, dpo (with the adapter), compare (both); or the verifier alone")
    parser.add_argument("--prompt", help="one prompt")
    parser.add_argument("--prompts-file", type=Path, metavar="FILE", help='many: one {"prompt": …} a line')
    parser.add_argument("--adapter-path", default="./final_adapter", help="LoRA adapter of the dpo draft (default %(default)s)")
    add_sampling_arguments(parser)
    parser.add_argument("--no-baseline", action="store_true", help="skip the plain verifier; no speed-up is reported then")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write one JSON row a block")
    add_model_arguments(parser)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    settings, prompts = read_settings(args), read_prompts(args)
    pair = choose_pair(args)
    if args.trace:
        write_whole(args.trace, "")
    modes = {"compare": ["base", "dpo"], "verifier": []}.get(args.mode, [args.mode])
    engine = Engine(pair)
    drafters = {mode: engine.load_drafter(args.adapter_path if mode == "dpo" else None) for mode in modes}
    if args.mode == "verifier" or not args.no_baseline:
        drafters = {"verifier": (None, "none"), **drafters}
    for prompt in prompts:
        engine.prompt_ids(prompt, settings)  # a prompt that does not fit is refused before the first is decoded
    output = console(stderr=args.json == "-")
    runs: list[dict] = []
    for prompt in prompts:
        baseline, of_this_prompt = None, []
        for mode, (drafter, adapter) in drafters.items():
            output.print(f"\n[{mode}] {prompt}", markup=False, soft_wrap=True)
            result = run_prompt(engine, prompt, mode, settings, args.seed, drafter, Printer(output, engine.tokenizer))
            output.print()
            blocks = result.pop("trace")
            if mode == "verifier":
                baseline = result["tokens_per_second"]
            result["speedup"] = (result["tokens_per_second"] or 0) / baseline if baseline else None
            result["adapter"] = adapter
            for number, block in enumerate(blocks if args.trace else []):
                append_jsonl(args.trace, {"run": len(runs), "mode": mode, "block": number, **asdict(block)})
            of_this_prompt.append(result)
            runs.append(result)
            if result["interrupted"]:
                break
        output.print()
        print_report(output, of_this_prompt)
        if of_this_prompt[-1]["interrupted"]:
            say("stopped by Ctrl-C; the figures above are of what was decoded until then.")
            break
    if args.json:
        put_json({"pair": {"name": pair.name, "draft": pair.draft.id, "verifier": pair.verifier.id,
                           "quantization": pair.quantization, "vocabulary": engine.shared.verdict},
                  "settings": {**asdict(settings), "seed": args.seed,
                               "adapter_path": args.adapter_path if "dpo" in modes else None},
                  "environment": environment(), "peak_memory_bytes": peak_memory_bytes(), "runs": runs}, args.json)
    return 130 if runs[-1]["interrupted"] else 0


if __name__ == "__main__":
    run(main)

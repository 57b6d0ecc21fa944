"""Is it lossless on the real pair? One test for three ways to sample from the verifier.

tests/test_exactness.py enumerates every text of toy models. A real vocabulary cannot be enumerated, but the likely
openings of an answer can: every opening of up to three tokens that is expected at least five times in the sample has
its exact probability from the verifier's own logits, and all others together have the rest. Chi-square compares the
openings drawn with these:

  generate   transformers' plain sampling, in a batch: must pass, or the test itself is wrong
  ours       speculative_decode's loop with the base draft: must pass
  assisted   transformers' own assisted sampling with the same draft, across vocabularies by `assistant_tokenizer`

Texts are decoded to LENGTH + K tokens and compared in their first LENGTH, so that every block that reaches the compared
tokens drafts its whole K, as in a long answer.

Where the draft's tokens are a subset of the verifier's, that version of transformers raises an AttributeError instead.
Exit status 1 if `generate` or `ours` fails (p < 0.001). What `assisted` does is reported, not required.

    python check_exactness.py --samples 150 --json studies/engine/results/exactness.json
"""

from __future__ import annotations

import argparse
from collections import Counter

from specdec.engine import Engine
from specdec.models import add_model_arguments, choose_pair, load_model
from specdec.provenance import provenance
from specdec.reference import assistance, generate_options
from specdec.sampling import Settings, check_settings, to_probs
from specdec.terminal import Problem, check_outputs, console, put_json, run, say, utf8
from speculative_decode import Drafter, decode, load_drafter, prefill, until_stop

PROMPT = "What screen reader works best for blind users?"
LENGTH = 3  # tokens of an opening
FEWEST_EXPECTED = 5  # of an opening, in the sample, to have a bin
SIGNIFICANCE = 1e-3

Opening = tuple[int, ...]


def likely_openings(engine: Engine, prompt: list[int], settings: Settings, smallest: float) -> dict[Opening, float]:
    """Every opening of LENGTH tokens (fewer after a stop token) of at least probability `smallest`, with its own."""
    likely: dict[Opening, float] = {}

    def grow(opening: Opening, probability: float) -> None:
        if len(opening) == LENGTH or (opening and opening[-1] in engine.stop):
            likely[opening] = probability
            return
        engine.verifier.start()
        probs = to_probs(engine.verifier.feed(prompt + list(opening)), settings)[0]
        for token in (probs * probability >= smallest).nonzero()[:, 0].tolist():
            grow((*opening, token), probability * float(probs[token]))

    grow((), 1.0)
    return likely


def ours(engine: Engine, drafter: Drafter | None, prompt: str, settings: Settings, args, name="ours") -> list[Opening]:
    import torch
    from tqdm import tqdm

    verifier_prompt, draft_prompt = engine.prompt_ids(prompt, settings)
    generator = torch.Generator(device=engine.verifier.device).manual_seed(args.seed)
    openings: list[Opening] = []
    for _ in tqdm(range(args.samples), desc=name, unit="text"):
        prefill(engine.verifier, verifier_prompt, drafter, draft_prompt)
        text: list[int] = []
        for block in decode(engine.verifier, verifier_prompt[-1], settings, engine.stop, generator, drafter):
            text += block.tokens
            if len(text) >= LENGTH:  # the rest would not be compared
                break
        openings.append(tuple(text[:LENGTH]))
    return openings


def by_generate(engine: Engine, prompt: str, settings: Settings, args, batch: int, name: str, **options) -> list[Opening]:
    """Openings from transformers' `generate`; `options` make it assisted."""
    import torch
    from tqdm import tqdm
    from transformers import set_seed

    ids = torch.tensor([engine.prompt_ids(prompt, settings)[0]], device=engine.verifier.device)
    sampling = generate_options(engine, settings, num_return_sequences=batch)
    set_seed(args.seed)
    texts: list[list[int]] = []
    with tqdm(total=args.samples, desc=name, unit="text") as bar:
        while len(texts) < args.samples:
            out = engine.verifier.model.generate(ids, attention_mask=torch.ones_like(ids), **sampling, **options)
            texts += out[:, ids.shape[1] :].tolist()
            bar.update(len(out))
    return [tuple(until_stop(text, engine.stop)[:LENGTH]) for text in texts[: args.samples]]


def compare(openings: list[Opening], exact: dict[Opening, float], tokenizer) -> dict:
    """Chi-square of the sample against the exact probabilities, its total variation from it, and the openings themselves."""
    from scipy.stats import chisquare

    found, total = Counter(openings), len(openings)
    expected = {opening: probability * total for opening, probability in exact.items()}
    rest, rest_found = total - sum(expected.values()), total - sum(found[opening] for opening in exact)
    bins = sorted((value, found[opening]) for opening, value in expected.items())
    if rest < FEWEST_EXPECTED:  # too few for a bin of their own: chi-square would not hold
        (value, count), *bins = bins
        bins.append((value + rest, count + rest_found))
    else:
        bins.append((rest, rest_found))
    result = chisquare([count for _, count in bins], [value * total / sum(value for value, _ in bins) for value, _ in bins])
    impossible = rest_found > 0 and rest < 1e-4 * total  # a sum of float32 probabilities
    return {
        "samples": total,
        "bins": len(bins),
        "chi_square": float(result.statistic),
        "p_value": 0.0 if impossible else float(result.pvalue),
        "total_variation": sum(abs(count - value) for value, count in bins) / 2 / total,
        "openings": [
            {"text": tokenizer.decode(list(opening)), "expected": round(value, 1), "found": found[opening]}
            for opening, value in sorted(expected.items(), key=lambda item: -item[1])
        ]
        + [{"text": None, "expected": round(rest, 1), "found": rest_found}],
        "others": [tokenizer.decode(list(opening)) for opening in list(dict.fromkeys(openings)) if opening not in exact][:10],
    }


def print_results(results: dict[str, dict]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("opening", "expected", *results):
        table.add_column(column, justify="left" if column == "opening" else "right")
    for number, row in enumerate(next(iter(results.values()))["openings"]):
        table.add_row(
            Text("any other" if row["text"] is None else repr(row["text"])),
            f"{row['expected']:.1f}",
            *(str(result["openings"][number]["found"]) for result in results.values()),
        )
    for name, key in (("p-value", "p_value"), ("total variation", "total_variation")):
        table.add_row(name, "", *(f"{result[key]:.2g}" for result in results.values()))
    console().print(table)
    for name, result in results.items():
        print(f"{name}: {'agrees with' if result['p_value'] >= SIGNIFICANCE else 'DIFFERS from'} the verifier's distribution")


def read_arguments() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=utf8, default=PROMPT, help=f'(default "{PROMPT}")')
    parser.add_argument("--samples", type=int, default=250, help="texts per sampler (default 250)")
    parser.add_argument("--k", type=int, default=4, help="draft length K (default 4)")
    parser.add_argument("--temperature", type=float, default=0.7, help="above 0 (default 0.7)")
    parser.add_argument("--stop-below", type=float, default=0.0, metavar="Q", help="as in speculative_decode.py (default: off)")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON to FILE, or - for stdout")
    add_model_arguments(parser, decodes=True)
    args = parser.parse_args()
    if args.samples < 20 or args.temperature == 0 or not args.prompt.strip():
        raise Problem("--samples must be at least 20, --temperature above 0, and --prompt not empty.")
    new = LENGTH + args.k
    settings = Settings(k=args.k, temperature=args.temperature, max_new_tokens=new, stop_below=args.stop_below)
    check_settings(settings)
    check_outputs(args.json)
    return args, settings


def draw(engine: Engine, settings: Settings, args: argparse.Namespace) -> tuple[dict[str, list[Opening]], str | None]:
    """The openings of every sampler, and what transformers' assisted sampling raised, if it did: a finding, not our failure."""
    drafter, _ = load_drafter(engine)
    if engine.pair.backend != "transformers":  # no `generate` on such a model: our loop without a draft stands for it
        plain = ours(engine, None, args.prompt, settings, args, "plain")
        return {"plain": plain, "ours": ours(engine, drafter, args.prompt, settings, args)}, None
    drawn = {"generate": by_generate(engine, args.prompt, settings, args, min(50, args.samples), "generate")}
    drawn["ours"] = ours(engine, drafter, args.prompt, settings, args)
    try:
        assistant = load_model(engine.pair.draft, engine.pair.quantization)  # its own, for it cuts rows out of the layers
        options = assistance(engine, assistant, settings)
        drawn["assisted"] = by_generate(engine, args.prompt, settings, args, 1, "assisted", **options)
    except (AttributeError, IndexError, ValueError) as error:
        say(f"transformers' assisted sampling raised {type(error).__name__}: {error}")
        return drawn, f"{type(error).__name__}: {error}"
    return drawn, None


def conditions_of(engine: Engine, settings: Settings, args: argparse.Namespace) -> dict:
    return {
        **({} if engine.pair.backend == "transformers" else {"backend": engine.pair.backend}),
        "k": args.k,
        "temperature": args.temperature,
        "length": LENGTH,
        "decoded": settings.max_new_tokens,
        "seed": args.seed,
        **({"stop_below": settings.stop_below} if settings.stop_below else {}),
    }


def main() -> int:
    args, settings = read_arguments()

    import torch

    engine = Engine(choose_pair(args))
    with torch.inference_mode():
        prompt, _ = engine.prompt_ids(args.prompt, settings)
        exact = likely_openings(engine, prompt, settings, FEWEST_EXPECTED / args.samples)
        if len(exact) < 2:
            raise Problem("fewer than two openings are expected five times, so there is nothing to test. Raise --samples.")
        drawn, assisted_error = draw(engine, settings, args)
    results = {name: compare(openings, exact, engine.tokenizer) for name, openings in drawn.items()}
    if args.json:
        pair = {"draft": engine.pair.draft.id, "verifier": engine.pair.verifier.id, "vocabulary": engine.shared.verdict}
        about = {"pair": pair, "prompt": args.prompt, **provenance(conditions_of(engine, settings, args))}
        put_json({**about, "results": results, "assisted_error": assisted_error}, args.json)
    if args.json != "-":
        print_results(results)
    return int(any(results[name]["p_value"] < SIGNIFICANCE for name in results if name != "assisted"))


if __name__ == "__main__":
    run(main)

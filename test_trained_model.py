"""Base draft against tuned draft on held-out prompts: what they write, and what they prefer.

The paper's qualitative table, with metrics: how often the tuned draft ranks the chosen answer above the rejected one
relative to the base (reward accuracy and margin, Rafailov et al. 2023), how long the answers are, and how often they
name a specific tool or standard. (A script: pytest collects tests/ alone.)

    python test_trained_model.py
    python test_trained_model.py --prompt "Which switch works with an iPad?"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from check_dataset import named
from preprocess_and_load_dataset import add_dataset_arguments, as_messages, read_pairs, split_rows, training_tokenizer
from specdec.adapters import load_adapter
from specdec.models import (
    Pair,
    add_model_arguments,
    choose_pair,
    load_model,
    pack_linears,
    prompt_token_ids,
    stop_ids,
)
from specdec.provenance import provenance
from specdec.reference import use_plain_sampling
from specdec.sampling import Settings, check_settings
from specdec.terminal import Problem, check_outputs, float_from_zero, positive_float, positive_int, put_json, run, utf8

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, stop: frozenset[int], args: argparse.Namespace
) -> str:
    """What the draft writes by itself: greedy at temperature 0, else sampled with the random seed; its plain distribution."""
    import torch

    ids = torch.tensor([prompt_token_ids(tokenizer, prompt)], device=model.device)
    torch.manual_seed(args.seed)
    sampling = {"do_sample": True, "temperature": args.temperature, "top_k": 0} if args.temperature else {"do_sample": False}
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=args.max_new_tokens,
            eos_token_id=sorted(stop),
            pad_token_id=tokenizer.eos_token_id,
            **sampling,
        )
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def log_probability(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, row: dict, side: str, max_length: int) -> float:
    """log π(answer | prompt): the sum over the answer's tokens, cut as in training."""
    import torch

    messages = as_messages(row)
    prompt, whole = (
        tokenizer.apply_chat_template(text, tokenize=True, return_dict=False, add_generation_prompt=opened)
        for text, opened in ((messages["prompt"], True), (messages["prompt"] + messages[side], False))
    )
    ids = torch.tensor([whole[:max_length]], device=model.device)
    with torch.inference_mode():
        log_probs = model(ids).logits[0, :-1].float().log_softmax(-1)
    per_token = log_probs.gather(1, ids[0, 1:, None])[:, 0]
    return float(per_token[len(prompt) - 1 :].sum())


def rewards(scores: dict[str, list[dict[str, float]]], beta: float) -> dict:
    """Reward accuracy and mean margin: r = β log(π_tuned / π_base), chosen against rejected, over the rows."""
    margins = [
        beta * ((tuned["chosen"] - base["chosen"]) - (tuned["rejected"] - base["rejected"]))
        for base, tuned in zip(scores["base"], scores["tuned"], strict=True)
    ]
    return {
        "rows": len(margins),
        "reward_accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "reward_margin": sum(margins) / len(margins),
    }


def describe(texts: list[str]) -> dict:
    return {
        "mean_characters": sum(map(len, texts)) / len(texts),
        "share_naming_a_tool_or_standard": sum(bool(named(text)) for text in texts) / len(texts),
    }


def conditions(args: argparse.Namespace, pair: Pair) -> dict:
    names = ("eval_fraction", "beta", "temperature", "max_new_tokens", "max_length", "seed")
    return {"quantization": pair.quantization, "dataset": args.dataset.name} | {name: getattr(args, name) for name in names}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter-path", default="./final_adapter", help="(default %(default)s)")
    parser.add_argument(
        "--prompt", type=utf8, action="append", help="a prompt of your own instead of held-out ones; may be repeated"
    )
    parser.add_argument("--samples", type=positive_int, default=10, help="held-out prompts to answer (default 10)")
    parser.add_argument("--eval-fraction", type=float, default=0.05, help="as in training (default 0.05)")
    parser.add_argument("--beta", type=positive_float, default=0.1, help="DPO's β, as in training (default 0.1)")
    parser.add_argument("--temperature", type=float_from_zero, default=0, help="0 is greedy (default)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=160, help="(default 160)")
    parser.add_argument("--json", metavar="FILE", help="write texts and metrics as JSON to FILE, or - for stdout")
    add_dataset_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args()
    check_outputs(args.json, inputs=[args.dataset])
    check_settings(Settings(temperature=args.temperature, max_new_tokens=args.max_new_tokens))
    if args.prompt and not all(prompt.strip() for prompt in args.prompt):
        raise Problem("a prompt is empty. Give some text after --prompt.")
    return args


def of_both_drafts(args: argparse.Namespace, pair: Pair, prompts: list[str], held_out: list[dict]) -> tuple[dict, dict]:
    """What the base and the tuned draft write, and what they think of the held-out pairs; one of them in memory at a time.

    Returns:
        "base" and "tuned" → an answer to each prompt; and → log π of "chosen" and "rejected" of each held-out row.
    """
    from tqdm import tqdm

    tokenizer = training_tokenizer(pair)
    texts: dict[str, list[str]] = {}
    scores: dict[str, list[dict[str, float]]] = {}
    for name in ("base", "tuned"):
        model = load_model(pair.draft, pair.quantization)
        if name == "tuned":
            model, _ = load_adapter(model, args.adapter_path, pair.draft.id)
        model = pack_linears(model)
        stop = stop_ids(model, tokenizer)
        use_plain_sampling(model)  # a repetition penalty that a model ships is not part of q
        texts[name] = [answer(model, tokenizer, prompt, stop, args) for prompt in tqdm(prompts, desc=f"{name}: answers")]
        scores[name] = [
            {side: log_probability(model, tokenizer, row, side, args.max_length) for side in ("chosen", "rejected")}
            for row in tqdm(held_out, desc=f"{name}: held-out rows", disable=not held_out)
        ]
    return texts, scores


def main() -> None:
    args = read_arguments()
    held_out = [] if args.prompt else split_rows(read_pairs(args.dataset), args.eval_fraction, args.seed)[1]
    if not args.prompt and not held_out:
        raise Problem("nothing is held out. Give --prompt, or an --eval-fraction above 0.")
    pair = choose_pair(args)
    prompts = args.prompt or [row["prompt"] for row in held_out[: args.samples]]
    texts, scores = of_both_drafts(args, pair, prompts, held_out)
    result = {
        **provenance(conditions(args, pair)),
        "draft": pair.draft.id,
        "adapter": Path(args.adapter_path).name,
        "held_out": rewards(scores, args.beta) if held_out else None,
        "answers": {name: describe(texts[name]) for name in texts},
        "texts": [
            {"prompt": prompt, "base": base, "tuned": tuned}
            for prompt, base, tuned in zip(prompts, texts["base"], texts["tuned"], strict=True)
        ],
    }
    if args.json:
        put_json(result, args.json)
    if args.json != "-":
        print_result(result)


def print_result(result: dict) -> None:
    for row in result["texts"]:
        print(f"\nPROMPT: {row['prompt']}\n\n  base:  {row['base']}\n\n  tuned: {row['tuned']}")
    print()
    if result["held_out"]:
        print(
            "held-out pairs: {rows}; reward accuracy {reward_accuracy:.3f}; reward margin {reward_margin:+.3f}".format(
                **result["held_out"]
            )
        )
    for name, metrics in result["answers"].items():
        print(
            f"{name} answers: {metrics['mean_characters']:.0f} characters on average; "
            f"{metrics['share_naming_a_tool_or_standard']:.0%} name a specific tool or standard"
        )


if __name__ == "__main__":
    run(main)

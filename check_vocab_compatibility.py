"""Compares two tokenizers id by id: can one model draft for the other?

Speculative decoding compares p(x) with q(x) token by token, so both models must mean the same by x. Verdicts:

  identical     every id names the same token: the models run together as they are                     (exit status 0)
  intersection  some tokens are shared by string: the draft proposes among those alone                 (exit status 0)
  incompatible  nothing to speak of is shared, or the two write text in different alphabets            (exit status 1)

The middle case is Token-Level Intersection (Timor et al. 2025, arXiv 2502.05202): q is restricted to shared tokens
and renormalised before sampling, which keeps speculative sampling exact (`specdec/vocabulary.py`).

    python check_vocab_compatibility.py                                      the pair this machine would run
    python check_vocab_compatibility.py --draft ID_OR_PATH --verifier ID_OR_PATH
"""

from __future__ import annotations

import argparse

from specdec.backend import logits_rows
from specdec.models import Model, add_model_arguments, choose_pair, load_pretrained, load_tokenizer
from specdec.terminal import Problem, check_outputs, put_json, run
from specdec.vocabulary import alphabet, named_tokens, vocabulary_map


def compare(draft_tokenizer, verifier_tokenizer, rows: tuple[int | None, int | None] = (None, None)) -> dict:
    """Returns the full comparison as JSON-ready numbers; `rows` are the logits rows of draft and verifier, if known."""
    tokenizers = (draft_tokenizer, verifier_tokenizer)
    draft, verifier = (named_tokens(tokenizer) for tokenizer in tokenizers)
    draft_by_id, verifier_by_id = ({id: token for token, id in names.items()} for names in (draft, verifier))
    ids = sorted(draft_by_id.keys() | verifier_by_id.keys())
    mismatches = [id for id in ids if draft_by_id.get(id) != verifier_by_id.get(id)]
    added = [
        {id: _flags(token) for id, token in tokenizer.added_tokens_decoder.items() if token.content in names}
        for tokenizer, names in zip(tokenizers, (draft, verifier), strict=True)
    ]
    return {
        "verdict": vocabulary_map(*tokenizers).verdict,
        "tokens": {"draft": len(draft), "verifier": len(verifier)},
        "logits_rows": {"draft": rows[0], "verifier": rows[1]},
        "rows_without_a_token": {
            side: None if count is None else count - len(names)
            for side, count, names in zip(("draft", "verifier"), rows, (draft, verifier), strict=True)
        },
        "ids_compared": len(ids),
        "ids_that_differ": len(mismatches),
        "shared_strings": len(draft.keys() & verifier.keys()),
        "alphabets": {"draft": alphabet(draft), "verifier": alphabet(verifier)},
        "added_tokens_that_differ": sorted(
            id for id in added[0].keys() | added[1].keys() if added[0].get(id) != added[1].get(id)
        ),
        "stop_tokens": {"draft": draft_tokenizer.eos_token, "verifier": verifier_tokenizer.eos_token},
        "chat_templates": "equal" if draft_tokenizer.chat_template == verifier_tokenizer.chat_template else "differ",
        "examples": [
            {"id": id, "draft": draft_by_id.get(id), "verifier": verifier_by_id.get(id)}
            for id in mismatches[:: max(len(mismatches) // 5, 1)][:5]
        ],
    }


def _flags(token) -> tuple:
    return token.content, token.lstrip, token.rstrip, token.normalized, token.single_word, token.special


MEANING = {
    "identical": "both models mean the same by every id; speculative decoding runs as it is.",
    "intersection": "the draft can propose the shared tokens alone; the others always come from the verifier. "
    "Output stays exact (Timor et al. 2025); acceptance is bounded by the verifier's mass on shared tokens.",
    "incompatible": "these two cannot work together. Choose a draft of the verifier's model family.",
}


def print_report(report: dict) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    shared, differ = report["shared_strings"], report["ids_that_differ"]
    rows = report["logits_rows"]
    console.print(f"[bold]verdict: {report['verdict']}[/bold] – {MEANING[report['verdict']]}")
    for side in ("draft", "verifier"):
        tail = (
            f"; {rows[side]:,} logits rows, {report['rows_without_a_token'][side]:,} of them without a token (masked)"
            if rows[side]
            else ""
        )
        console.print(
            escape(
                f"{side}: {report['tokens'][side]:,} tokens ({report['alphabets'][side]}), "
                f"end of text {report['stop_tokens'][side]!r}{tail}"
            )
        )
    console.print(
        f"ids compared: {report['ids_compared']:,}; the same token at the same id: "
        f"{report['ids_compared'] - differ:,}; different: {differ:,}"
    )
    console.print(f"token strings shared at any id: {shared:,}")
    console.print(
        f"added tokens that differ in text or flags: {len(report['added_tokens_that_differ'])}; "
        f"chat templates {report['chat_templates']}"
    )
    for example in report["examples"]:
        console.print(escape(f"  id {example['id']}: draft {example['draft']!r}, verifier {example['verifier']!r}"))


def _logits_rows(model: Model) -> int | None:
    """The width of the model's output layer, from its config; None for a folder with a tokenizer alone."""
    from transformers import AutoConfig

    try:
        return logits_rows(load_pretrained(AutoConfig, model))
    except Problem:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the comparison as JSON to FILE, or - for stdout")
    args = parser.parse_args()
    check_outputs(args.json)
    pair = choose_pair(args)
    report = compare(
        load_tokenizer(pair.draft), load_tokenizer(pair.verifier), (_logits_rows(pair.draft), _logits_rows(pair.verifier))
    )
    report = {"draft": pair.draft.id, "verifier": pair.verifier.id, **report}
    if args.json:
        put_json(report, args.json)
    if args.json != "-":
        print_report(report)
    return 1 if report["verdict"] == "incompatible" else 0


if __name__ == "__main__":
    run(main)

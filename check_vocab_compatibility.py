"""Compares two tokenizers id by id: can one model draft for the other?

Speculative decoding compares p(x) with q(x) token by token, so both models must mean the same by x. Verdicts:

  identical     every id names the same token: the models run together as they are                     (exit status 0)
  intersection  some tokens are shared by string: the draft proposes among those alone                 (exit status 0)
  incompatible  nothing to speak of is shared, or the two spell text in different alphabets            (exit status 1)

The middle case is Token-Level Intersection (Timor et al. 2025, arXiv 2502.05202): q is restricted to shared tokens
and renormalised before sampling, which keeps speculative sampling exact. `vocabulary_map` is what the engine uses.

    python check_vocab_compatibility.py                                      the pair this machine would run
    python check_vocab_compatibility.py --draft ID_OR_PATH --verifier ID_OR_PATH
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from models import Model, add_model_arguments, choose_pair, load_pretrained, load_tokenizer
from terminal import Problem, put_json, run


@dataclass(frozen=True)
class VocabularyMap:
    """What draft and target (verifier) share: draft_ids[i] and target_ids[i] name the same token, for i < S.

    """

    verdict: str
    draft_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    spell: Callable[[int], tuple[int, ...]]  # target id → the draft's own tokens for the same characters

    def translate(self, target_tokens: Iterable[int]) -> list[int]:
        """Spells target tokens in the draft's vocabulary, one by one, so that the draft's context only ever grows."""
        return [token for target in target_tokens for token in self.spell(target)]


def named_tokens(tokenizer) -> dict[str, int]:
    """Token string → id, without the filler names ("[PAD151665]") that GGUF files give to rows without a token."""
    return {token: id for token, id in tokenizer.get_vocab().items()
            if not ((filler := re.fullmatch(r"\[PAD(\d+)\]", token)) and int(filler[1]) == id)}


def alphabet(tokens: Iterable[str]) -> str:
    """How most token strings spell a space: byte-level BPE writes Ġ, SentencePiece writes ▁."""
    firsts = Counter(token[:1] for token in tokens)
    space, count = max((("byte-level", firsts["Ġ"]), ("sentencepiece", firsts["▁"])), key=lambda pair: pair[1])
    return space if count else "other"


def vocabulary_map(draft_tokenizer, target_tokenizer) -> VocabularyMap:
    """Builds the map between two tokenizers; `verdict` is "incompatible" where no map is possible."""
    draft, target = named_tokens(draft_tokenizer), named_tokens(target_tokenizer)
    if draft == target:
        ids = tuple(sorted(target.values()))
        return VocabularyMap("identical", ids, ids, lambda id: (id,))
    shared = sorted((target[token], draft[token]) for token in target.keys() & draft.keys())
    if not shared or alphabet(draft) != alphabet(target):
        return VocabularyMap("incompatible", (), (), lambda id: ())
    target_ids, draft_ids = zip(*shared, strict=True)
    target_by_id = {id: token for token, id in target.items()}
    # SmolLM2 lacks 21 rare single bytes; for those the draft reads a stand-in, which can cost acceptance but never
    # exactness: any q is allowed as long as it is the q that was sampled.
    stand_in = draft_tokenizer.unk_token_id
    stand_in = draft_tokenizer.eos_token_id if stand_in is None else stand_in
    # The BPE model itself cuts a token's string into draft tokens: no normaliser or pre-tokenizer adds a space.
    cut = draft_tokenizer.backend_tokenizer.model.tokenize

    @cache
    def spell(id: int) -> tuple[int, ...]:
        token = target_by_id[id]
        if token in draft:
            return (draft[token],)
        return tuple(piece.id for piece in cut(token)) or (stand_in,)

    return VocabularyMap("intersection", draft_ids, target_ids, spell)


def compare(draft_tokenizer, target_tokenizer, rows: tuple[int | None, int | None] = (None, None)) -> dict:
    """Returns the full comparison as JSON-ready figures; `rows` are the logits rows of draft and target, if known."""
    tokenizers = (draft_tokenizer, target_tokenizer)
    draft, target = (named_tokens(tokenizer) for tokenizer in tokenizers)
    draft_by_id, target_by_id = ({id: token for token, id in names.items()} for names in (draft, target))
    ids = sorted(draft_by_id.keys() | target_by_id.keys())
    mismatches = [id for id in ids if draft_by_id.get(id) != target_by_id.get(id)]
    added = [{id: _flags(token) for id, token in tokenizer.added_tokens_decoder.items()
              if token.content in names}
             for tokenizer, names in zip(tokenizers, (draft, target), strict=True)]
    return {
        "verdict": vocabulary_map(*tokenizers).verdict,
        "tokens": {"draft": len(draft), "verifier": len(target)},
        "logits_rows": {"draft": rows[0], "verifier": rows[1]},
        "rows_without_a_token": {side: None if count is None else count - len(names)
                                 for side, count, names in zip(("draft", "verifier"), rows, (draft, target), strict=True)},
        "ids_compared": len(ids),
        "ids_that_differ": len(mismatches),
        "shared_strings": len(draft.keys() & target.keys()),
        "alphabets": {"draft": alphabet(draft), "verifier": alphabet(target)},
        "added_tokens_that_differ": sorted(id for id in added[0].keys() | added[1].keys()
                                           if added[0].get(id) != added[1].get(id)),
        "stop_tokens": {"draft": draft_tokenizer.eos_token, "verifier": target_tokenizer.eos_token},
        "chat_templates": "equal" if draft_tokenizer.chat_template == target_tokenizer.chat_template else "differ",
        "examples": [{"id": id, "draft": draft_by_id.get(id), "verifier": target_by_id.get(id)}
                     for id in mismatches[:: max(len(mismatches) // 5, 1)][:5]],
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

    console = Console(highlight=False, soft_wrap=True)
    shared, differ = report["shared_strings"], report["ids_that_differ"]
    rows = report["logits_rows"]
    console.print(f"[bold]verdict: {report['verdict']}[/bold] – {MEANING[report['verdict']]}")
    for side in ("draft", "verifier"):
        tail = f"; {rows[side]:,} logits rows, {report['rows_without_a_token'][side]:,} of them without a token (masked)" \
            if rows[side] else ""
        console.print(escape(f"{side}: {report['tokens'][side]:,} tokens ({report['alphabets'][side]}), "
                             f"end of text {report['stop_tokens'][side]!r}{tail}"))
    console.print(f"ids compared: {report['ids_compared']:,}; the same token at the same id: "
                  f"{report['ids_compared'] - differ:,}; different: {differ:,}")
    console.print(f"token strings shared at any id: {shared:,}")
    console.print(f"added tokens that differ in text or flags: {len(report['added_tokens_that_differ'])}; "
                  f"chat templates {report['chat_templates']}")
    for example in report["examples"]:
        console.print(escape(f"  id {example['id']}: draft {example['draft']!r}, verifier {example['verifier']!r}"))


def _logits_rows(model: Model) -> int | None:
    """The width of the model's output layer, from its config; None for a folder with a tokenizer alone."""
    from transformers import AutoConfig

    try:
        return load_pretrained(AutoConfig, model).vocab_size
    except Problem:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the comparison as JSON to FILE, or - for stdout")
    args = parser.parse_args()
    pair = choose_pair(args)
    report = compare(load_tokenizer(pair.draft), load_tokenizer(pair.verifier),
                     (_logits_rows(pair.draft), _logits_rows(pair.verifier)))
    report = {"draft": pair.draft.id, "verifier": pair.verifier.id, **report}
    if args.json:
        put_json(report, args.json)
    if args.json != "-":
        print_report(report)
    return 1 if report["verdict"] == "incompatible" else 0


if __name__ == "__main__":
    run(main)

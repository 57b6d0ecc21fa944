"""The verifier's stored answers, and its probabilities at their positions: what generate_answers.py writes and others read.

An answers file is a row file (`specdec.provenance`). The header's conditions are those of all its answers: verifier,
quantization, max_new_tokens, and, where one was given, system (the text of a system prompt), raw (no chat template) or text
(whose texts the verifier read here and did not write: for training alone, no draft is measured on them).
A row is the row of the prompt file, whole, with

    {"temperature": 0.7, "top_p": 1.0, "token_ids": [n], "probs": digest or null, "seed": 42, "run_id": …,
     "batch_seconds": what its batch took, "batch_rows": answers in that batch (rows of earlier versions lack both)}

One answer is one (prompt, temperature, top_p). The probabilities lie in the cache folder, a file an answer, named by a digest
of the answer: `ids` [n, M] int32 and `probs` [n, M] float32, the M most probable tokens at each of its n positions.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.models import holds_added_token, prompt_token_ids, token_ids
from specdec.provenance import read_row_file
from specdec.terminal import Problem, say
from specdec.weights import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

    from specdec.engine import Engine
    from specdec.models import Pair
    from specdec.sampling import Settings
    from specdec.vocabulary import VocabularyMap

UNLESS_GIVEN = {"system": None, "raw": False, "text": None}  # conditions that a header leaves out
PER_TYPE = ("domain", "query_type", "source")  # what a row has where prompts are drawn per type


def answer_digest(verifier: str, settings: dict, prompt: str, token_ids: list[int]) -> str:
    """Names the stored probabilities of one answer; another verifier, setting or text gives another name."""
    identity = json.dumps([verifier, settings, prompt, token_ids], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def digest_of(verifier: str, row: dict) -> str:
    """`answer_digest` of a row of an answers file."""
    settings = {"temperature": row["temperature"], "top_p": row["top_p"]}
    return answer_digest(verifier, settings, row["prompt"], row["token_ids"])


def probs_file(digest: str) -> Path:
    return cache_folder() / "top-probs" / digest[:2] / f"{digest}.safetensors"


def read_answers(file: Path, **expected) -> list[dict]:
    """The answers in `file`, in its order: the rows of `prompted_answers`."""
    return prompted_answers(file, **expected)[0]


def prompted_answers(file: Path, **expected) -> tuple[list[dict], dict]:
    """The answers in `file`, in its order, and how their prompts were written (`prompted`).

    Args:
        expected: conditions that all of them must have, such as verifier="Qwen/…" or max_new_tokens=200.

    Raises:
        Problem: no such file, no header, other conditions than expected, a row that is not an answer, or one whose `probs`
            belongs to another answer.
    """
    try:
        headers, rows = read_row_file(file, required=("prompt",))
    except FileNotFoundError:
        raise Problem(f"no answers at {file}. Make them with generate_answers.py --output {file}.") from None
    if rows and not headers:
        raise Problem(f"{file} does not say of which verifier its answers are. Make it with generate_answers.py.")
    conditions: dict = {}
    for header in headers.values():
        found = {**UNLESS_GIVEN, **header["conditions"]}
        conditions = conditions or found
        if found != conditions:
            raise Problem(f"{file} holds answers of several conditions. Keep the rows of one run_id and its header alone.")
        for name, value in expected.items():
            if found.get(name) != value:
                raise Problem(
                    f"{file} holds answers of another {name} ({found.get(name)}, not {value}). "
                    "Name another file, or give the options that they were made with."
                )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("token_ids"), list) or not row["token_ids"]:
            raise Problem(f"{file}: answer {number} has no token_ids. Delete that line and run generate_answers.py again.")
        if missing := {"temperature", "top_p"} - row.keys():
            raise Problem(f"{file}: answer {number} has no {min(missing)}. Delete that line and run generate_answers.py again.")
        if row.get("probs") and row["probs"] != digest_of(conditions["verifier"], row):
            raise Problem(f"{file}: the probabilities of answer {number} are of another answer. Generate the answers again.")
    return rows, prompted(headers)


def answers_to(prompts: set[str], file: Path, pair: Pair, settings: Settings) -> tuple[list[dict], dict]:
    """The answers in `file` to these prompts by the pair's verifier under these settings; says how many are missing.

    Returns:
        The rows, and `prompted` of their file.

    Raises:
        Problem: as `read_answers`, or there is no answer to any of the prompts at this temperature and top-p.
    """
    stored, how = prompted_answers(
        file, verifier=pair.verifier.id, quantization=pair.quantization, max_new_tokens=settings.max_new_tokens, text=None
    )
    wanted = (settings.temperature, settings.top_p)
    sampled_at = sorted({(row["temperature"], row["top_p"]) for row in stored})
    if stored and wanted not in sampled_at:
        others = "; ".join(f"temperature {temperature}, top-p {top_p}" for temperature, top_p in sampled_at)
        raise Problem(
            f"{file} holds answers at {others}; none at temperature {wanted[0]}, top-p {wanted[1]}. "
            "Give the same options, or answer the prompts with these by generate_answers.py."
        )
    found = [row for row in stored if row["prompt"] in prompts and (row["temperature"], row["top_p"]) == wanted]
    missing = len(prompts - {row["prompt"] for row in found})
    if not found:
        raise Problem(f"none of the {len(prompts)} prompts has an answer in {file}. Run generate_answers.py on them.")
    if missing:
        say(f"{missing} of {len(prompts)} prompts have no answer in {file}; generate_answers.py makes them")
    return found, how


def prompted(headers: dict[str, dict]) -> dict:
    """The conditions of an answers file that `prompt_of` takes: system and raw, where its headers, which agree, give them."""
    conditions: dict = next((header["conditions"] for header in headers.values()), {})
    return {name: conditions[name] for name in ("system", "raw") if name in conditions}


def drawn_per_type(rows: list[dict], number: int, seed: int) -> list[dict]:
    """`number` rows of each source, domain and query type, or all where there are fewer, drawn by `seed`."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in PER_TYPE), []).append(row)
    draw = random.Random(seed)
    return [row for group in groups.values() for row in draw.sample(group, min(number, len(group)))]


def read_probs(digest: str) -> tuple[Tensor, Tensor]:
    """The most probable tokens at the n positions of one answer: ids [n, M] int64 and their probabilities [n, M] float32.

    Raises:
        Problem: the file is not in the cache folder, or it is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = probs_file(digest)
    remedy = "Run generate_answers.py with --top-probs to a new --output, or learn from the text alone."
    try:
        found = load_file(file)
        return found["ids"].long(), found["probs"].float()
    except FileNotFoundError:
        raise Problem(f"the probabilities {digest} are not in {file.parent.parent}. {remedy}") from None
    except (SafetensorError, KeyError, OSError):
        raise Problem(f"the probabilities {file} are not whole. {remedy}") from None


def store_probs(digest: str, ids: Tensor, probs: Tensor) -> None:
    """Writes the file that `read_probs` reads: the whole of it or nothing."""
    from safetensors.torch import save

    file = probs_file(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    try:
        unfinished.write_bytes(save({"ids": ids.int().contiguous(), "probs": probs.float().contiguous()}))
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def prompt_ids(engine: Engine, row: dict, settings: Settings, system: str | None = None, raw: bool = False):
    """`prompt_of` with an engine's tokenizers; refuses a prompt that is too long, as `Engine.check_room`."""
    verifier, draft = prompt_of(row, engine.tokenizer, engine.draft_tokenizer, engine.shared, system, raw)
    engine.check_room(verifier, draft, settings)
    return verifier, draft


def prompt_of(
    row: dict, tokenizer, draft_tokenizer, shared: VocabularyMap, system: str | None = None, raw: bool = False
) -> tuple[list[int], list[int]]:
    """The prompt of `row` in the verifier's ids and in the draft's; both models read one text.

    The verifier's chat template writes it, with the row's `messages` and `tools` and with a system prompt, where there are
    any; `raw` takes the prompt as the beginning of a text.

    Raises:
        Problem: the template drops what it was given, `raw` stands beside messages, tools or a system prompt, or a special
            token stands in what a user wrote.
    """
    conversation = system is not None or "messages" in row or "tools" in row
    same = shared.verdict == "identical"
    if not raw and not conversation:
        verifier = prompt_token_ids(tokenizer, row["prompt"])
        return verifier, verifier if same else prompt_token_ids(draft_tokenizer, row["prompt"], template=tokenizer)
    if raw and conversation:
        raise Problem("--raw uses no chat template, so it takes neither --system nor prompts with messages or tools.")
    written = [row["prompt"], *(message["content"] for message in row.get("messages", []))]
    if any(holds_added_token(tokenizer, text) for text in written):
        raise Problem(f"the prompt '{row['prompt'][:40]}…' holds a special token of the verifier. Take it out.")
    text = row["prompt"] if raw else _conversation_text(tokenizer, row, system)
    verifier = tokenizer(text)["input_ids"] if raw else token_ids(tokenizer, text)
    return verifier, verifier if same else draft_tokenizer(text, add_special_tokens=raw)["input_ids"]


def _conversation_text(tokenizer, row: dict, system: str | None) -> str:
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    options = {"tools": row["tools"]} if row.get("tools") else {}
    if not tokenizer.chat_template:
        raise Problem("the verifier has no chat template, so it takes no system prompt, messages or tools. Use --raw.")
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    if system is not None and system.strip() not in text:
        raise Problem("the verifier's chat template has no system prompt. Leave out --system.")
    if options and json.dumps(row["tools"][0]["function"]["name"]) not in text:
        raise Problem("the verifier's chat template takes no tools. Choose a verifier that was trained to call functions.")
    return text

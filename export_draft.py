"""The tuned draft for other engines: its adapter merged, as a Hugging Face folder and, with --gguf, as a GGUF file.

The folder holds safetensors, configurations, the draft's own tokenizer and chat template, and a model card with the acceptance
that was measured. It appears whole or not at all, and never where files are. The commands for transformers, vLLM and
llama.cpp are printed on stdout, with what the vocabularies of draft and verifier forbid.

Which draft it is: the sum of base and adapter, made in float32 and rounded stochastically to bf16, as decoding makes it
wherever bf16 is computed (specdec/adapters.py). A CPU without bf16 units decodes with the sum itself; what is exported there
is rounded all the same, a total variation of 0.004 away for the shipped draft. The random bits are those of the device that
rounds: a GPU's are not a CPU's; and processors differ in the last bit of a float32 product, which moves a weight now and
then. Where a pair is decoded in NF4 the adapter stays apart there, and the exported draft, merged in bf16, is another one.

    python export_draft.py --adapter-path final_adapter --output-dir exported/dpo
    python export_draft.py --adapter-path adapters/kl --output-dir exported/kl --gguf --quantize q8_0
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec.adapters import adapter_digest, describe_adapter, load_adapter
from specdec.gguf_files import original_of, write_gguf
from specdec.models import (
    PAIRS,
    Pair,
    choose_pair,
    compute_dtype,
    device,
    load_model,
    load_pretrained,
    load_tokenizer,
    refuse_without_memory,
)
from specdec.provenance import ROOT, portable, provenance
from specdec.terminal import Problem, check_outputs, put_json, run, say
from specdec.training import is_full, overlap_of_written, read_object
from specdec.vocabulary import vocabulary_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

METRICS = {"overlap": "Σ min(p, q) at the positions of the verifier's answers", "acceptance": "accepted of the drafted tokens"}


# --- the draft and what is known of it --------------------------------------------------------------------------------


def merged_draft(pair: Pair, adapter_path: Path) -> PreTrainedModel:
    """The draft with its adapter merged, bf16 on any machine and for any quantization of the pair.

    Raises:
        Problem: as `load_adapter` (another base, a damaged adapter), or too little memory.
    """
    import torch

    refuse_without_memory([pair.draft])
    base = load_model(pair.draft, dtype=torch.bfloat16)
    return load_adapter(base, adapter_path, pair.draft.id)[0]


def measured(digest: str | None, root: Path = ROOT) -> list[dict]:
    """What the reports in studies/*/results/ hold of the adapter with this digest: a row for each metric and domain."""
    rows = []
    for file in sorted(root.glob("studies/*/results/**/acceptance.json")):  # another pair's lies in a folder of its own
        study = file.relative_to(root).parts[1]
        result = read_object(file) or {}
        names = [name for name, found in result.get("adapters", {}).items() if found == digest]
        groups = {"overlap": result.get("paired", {}), "acceptance": result.get("live", {}).get("acceptance_rate", {})}
        for metric, by_group in groups.items():
            for group, values in by_group.items():
                if ":" not in group and names and names[0] in values["means"]:  # "at: procedural" is a part of "at"
                    rows.append(measured_row(study, result["conditions"], metric, group, values, names[0]))
    return rows


def measured_row(study: str, conditions: dict, metric: str, domain: str, values: dict, name: str) -> dict:
    return {
        "study": study,
        "verifier": conditions["verifier"],
        "temperature": conditions["temperature"],
        "metric": metric,
        "domain": domain,
        "prompts": values["prompts"],
        "base": values["means"]["base"],
        "draft": values["means"][name],
        "change": values["changes"][name]["mean"],
        "interval": values["changes"][name]["interval"],
    }


def vocabularies(pair: Pair, draft_tokenizer: PreTrainedTokenizerBase) -> tuple[str, bool]:
    """("identical", "intersection" or "incompatible", whether both models have as many rows of logits)."""
    from transformers import AutoConfig

    verdict = vocabulary_map(draft_tokenizer, load_tokenizer(pair.verifier)).verdict
    draft, verifier = (load_pretrained(AutoConfig, model).get_text_config() for model in (pair.draft, pair.verifier))
    return verdict, draft.vocab_size == verifier.vocab_size


# --- other engines ----------------------------------------------------------------------------------------------------


def engines(folder: str, gguf: str | None, verifier: str, verdict: str, same_rows: bool) -> dict[str, dict[str, str | None]]:
    """Engine → its command, None where the vocabularies forbid it, and what has to be known about it."""
    return {
        "transformers": for_transformers(folder, verifier, verdict, same_rows),
        "vLLM": for_vllm(folder, verifier, verdict, same_rows),
        "llama.cpp": for_llama_cpp(gguf, verdict),
    }


def for_transformers(folder: str, verifier: str, verdict: str, same_rows: bool) -> dict[str, str | None]:
    """It compares numbers of rows, not tokens: equal ones must go without the draft's tokenizer, others with it."""
    if verdict != "identical" and same_rows:
        note = "Not to be used: transformers would take the two vocabularies, of one size, for the same one."
        return {"command": None, "note": note}
    note, more = "One vocabulary: assisted generation is speculative sampling. The pair was not tried in it here.", ""
    if not same_rows:
        more = f", do_sample=False, tokenizer=tokenizer,\n    assistant_tokenizer=AutoTokenizer.from_pretrained({folder!r})"
        note = (
            "The vocabularies differ, so it takes both tokenizers, and greedy decoding alone: its sampling across vocabularies "
            "was not lossless where we measured it (transformers 5.23, studies/engine). Its greedy text was not measured."
        )
    command = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({verifier!r})\n"
        f"verifier = AutoModelForCausalLM.from_pretrained({verifier!r})\n"
        f"draft = AutoModelForCausalLM.from_pretrained({folder!r})\n"
        'chat = [{"role": "user", "content": "What is a screen reader?"}]\n'
        'inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)\n'
        f"answer = verifier.generate(**inputs, assistant_model=draft, max_new_tokens=200{more})\n"
        "print(tokenizer.decode(answer[0]))"
    )
    return {"command": command, "note": note}


def for_vllm(folder: str, verifier: str, verdict: str, same_rows: bool) -> dict[str, str | None]:
    if verdict == "incompatible":
        return {"command": None, "note": "The vocabularies share no tokens: vLLM has no way to use this draft."}
    config: dict[str, Any] = {"method": "draft_model", "model": folder, "num_speculative_tokens": 4}
    note = "Not tried here (it needs a GPU)."
    if verdict != "identical" or not same_rows:
        config["use_heterogeneous_vocab"] = True
        note = (
            "The vocabularies differ, or their sizes do. vLLM refuses that before July 2026 (pull request 38174); since then "
            "it drafts with the tokens that both have, greedily, never by sampling, so its acceptance is another. " + note
        )
    return {"command": f"vllm serve {verifier} --speculative-config {shlex.quote(json.dumps(config))}", "note": note}


def for_llama_cpp(gguf: str | None, verdict: str) -> dict[str, str | None]:
    if verdict != "identical":
        note = (
            "The vocabularies differ: llama.cpp says so and goes on without the draft (seen in October 2026); some versions "
            "since July 2025 translate by way of text. As a model of its own a GGUF file loads: llama-cli --model FILE."
        )
        return {"command": None, "note": note}
    if gguf is None:
        return {"command": None, "note": "It reads GGUF alone: export again with --gguf."}
    note = (
        "VERIFIER.gguf: the verifier's own GGUF file. Versions of 2026 may ask for --spec-type draft-simple too. The pair was "
        "not tried in it here."
    )
    return {"command": f"llama-server --model VERIFIER.gguf --model-draft {shlex.quote(gguf)}", "note": note}


# --- the folder -------------------------------------------------------------------------------------------------------


def check_folder(output_dir: Path) -> Path:
    """The folder behind `output_dir`, which must be new or empty: an export replaces nothing."""
    folder = output_dir.resolve()
    if folder.exists() and not folder.is_dir():
        raise Problem(f"{output_dir} is a file. Choose another --output-dir.")
    if folder.exists() and any(folder.iterdir()):
        raise Problem(f"{output_dir} holds files, and an export replaces none. Choose another --output-dir, or remove it.")
    return folder


def write_folder(output_dir: Path, fill: Callable[[Path], None]) -> None:
    """Lets `fill` write into a folder beside `output_dir`, then renames it: readers see all of it or nothing.

    Raises:
        Problem: it cannot be written, or files have appeared there since `check_folder`.
    """
    from safetensors import SafetensorError

    folder = output_dir.resolve()
    work = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        work.mkdir(parents=True)
        fill(work)
        work.replace(folder)  # onto an empty folder too, never onto a full one
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if is_full(error) or isinstance(error, OSError | SafetensorError):  # numpy's own says "… requested and … written"
            raise Problem(
                f"{output_dir} could not be written ({error}). Nothing is left of it. Free space, or choose another."
            ) from None
        raise


def card(result: dict, settings: dict) -> str:
    """The model card of an exported folder."""
    training = "\n".join(f"| {key} | {portable(str(value))} |" for key, value in settings.items() if key != "path")
    return f"""\
---
base_model: {result["draft"]}
library_name: transformers
tags: [speculative-decoding]
---

# A draft for speculative decoding: {result["draft"].split("/")[-1]} with the adapter {result["adapter"]} merged

It proposes tokens to {result["verifier"]}, which keeps or rejects them. It changes the speed of decoding, never the text's
distribution where the engine is exact; it is not meant to answer questions by itself. Made by `{result["command"]}`; the
adapter's weights have the sha256 {result["adapter_sha256"]}…. {result["rounding"]} License: that of {result["draft"]}.

The tokenizer's chat template is the draft's own. As a draft it reads the verifier's template, which the engine applies.

## Measured acceptance

{measured_table(result["measured"], result["held_out_overlap"])}

## Use

{engines_text(result["engines"])}

## Training

| setting | value |
|---|---|
{training}
"""


def measured_table(rows: list[dict], held_out: dict | None) -> str:
    lines = []
    if held_out:
        found = f"{held_out['before']:.4f} → {held_out['after']:.4f}"
        lines.append(f"Σ min(p, q) on answers held out of its training, before → after (metrics.json): {found}.\n")
    if not rows:
        return "\n".join([*lines, "By a study: not measured."])
    lines += [
        "| study | metric | domain | prompts | base | this draft | change, 95% interval |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        interval = "" if row["interval"] is None else " [{:+.4f}, {:+.4f}]".format(*row["interval"])
        lines.append(
            "| {study} | {metric} | {domain} | {prompts} | {base:.4f} | {draft:.4f} | {change:+.4f}".format(**row)
            + f"{interval} |"
        )
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in METRICS.items())
    conditions = sorted({f"{row['verifier']} at temperature {row['temperature']:g}" for row in rows})
    return "\n".join([*lines, "", f"Means over prompts, verifier {', '.join(conditions)}. {meanings}."])


def engines_text(found: dict[str, dict[str, str | None]]) -> str:
    parts = []
    for name, engine in found.items():
        command = (
            f"\n\n```{'python' if name == 'transformers' else 'sh'}\n{engine['command']}\n```" if engine["command"] else ""
        )
        parts.append(f"**{name}.** {engine['note']}{command}")
    return "\n\n".join(parts)


def rounding(pair: Pair, device: str) -> str:
    """One sentence on how the exported weights relate to those that decode here."""
    text = f"Base and adapter were added in float32 and rounded stochastically to bf16 on a {device} with random seed 0."
    if pair.quantization == "nf4":
        text += " Decoding this pair in NF4 keeps the adapter apart from 4-bit weights: another draft than this one."
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter-path", type=Path, default=Path("final_adapter"), help="(default %(default)s)")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    parser.add_argument("--gguf", action="store_true", help="a GGUF file in the folder too (llama and qwen2 drafts)")
    parser.add_argument("--quantize", choices=("f16", "q8_0"), default="f16", help="of the GGUF file (default f16)")
    parser.add_argument(
        "--gguf-original", type=Path, metavar="FILE", help="the base draft's GGUF file, for its metadata (default: fetched)"
    )
    parser.add_argument("--pair", default="auto", metavar="NAME", help=f"auto (default) or one of {', '.join(PAIRS)}")
    parser.add_argument("--draft", metavar="ID_OR_PATH", help="a base draft instead of the pair's")
    parser.add_argument("--verifier", metavar="ID_OR_PATH", help="a verifier instead of the pair's; only its tokenizer is read")
    parser.add_argument("--json", metavar="FILE", help="write what was exported as JSON to FILE, or - for stdout")
    parser.set_defaults(quantization=None)
    return parser.parse_args()


def describe(args: argparse.Namespace, pair: Pair, gguf: str | None, verdict: str, same_rows: bool) -> dict:
    """All that is said of an export, JSON-ready; its commands name the folder as seen from the one above it."""
    here = f"./{args.output_dir.resolve().name}"
    return {
        **provenance({"quantize": args.quantize if gguf else None}),
        "draft": portable(pair.draft.id),
        "verifier": portable(pair.verifier.id),
        "adapter": args.adapter_path.resolve().name,
        "adapter_sha256": adapter_digest(args.adapter_path),
        "rounding": rounding(pair, "GPU" if device() != "cpu" else "CPU"),
        "vocabularies": verdict,
        "gguf": gguf,
        "measured": measured(adapter_digest(args.adapter_path)),
        "held_out_overlap": overlap_of_written(read_object(args.adapter_path / "metrics.json") or {}),
        "engines": engines(here, gguf and f"{here}/{gguf}", portable(pair.verifier.id), verdict, same_rows),
    }


def main() -> None:
    args = arguments()
    check_folder(args.output_dir)
    check_outputs(args.json, folders=[args.output_dir])
    settings = describe_adapter(args.adapter_path)
    adapter = args.adapter_path.resolve().name
    adapter_digest(args.adapter_path)  # says so if there is none, before anything is fetched
    pair = choose_pair(args)
    gguf = f"{Path(pair.draft.id).name}-{adapter}-{args.quantize}.gguf" if args.gguf else None
    tokenizer = load_tokenizer(pair.draft)
    verdict, same_rows = vocabularies(pair, tokenizer)
    result = describe(args, pair, gguf, verdict, same_rows)
    original = original_of(pair.draft.id, pair.draft.gguf, args.gguf_original) if args.gguf else None
    model = merged_draft(pair, args.adapter_path)

    def fill(work: Path) -> None:
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        (work / "README.md").write_text(card(result, settings), encoding="utf-8")
        if original and gguf:
            write_gguf(work / gguf, model, original, args.quantize, f"{original.name} + {adapter}")
        for file in work.iterdir():  # safetensors' are its owner's alone; the card has what the umask leaves
            file.chmod((work / "README.md").stat().st_mode)

    write_folder(args.output_dir, fill)
    say(result["rounding"])
    if compute_dtype().itemsize == 4:
        say("this machine decodes with the float32 sum; the exported draft is the one that decodes where bf16 is computed")
    say(f"exported to {args.output_dir}" + (f", with {gguf}" if gguf else ""))
    if args.json:
        put_json(result, args.json)
    if args.json != "-":
        file = str(args.output_dir / gguf) if gguf else None
        print(engines_text(engines(str(args.output_dir), file, pair.verifier.id, verdict, same_rows)))


if __name__ == "__main__":
    run(main)

"""The shipped draft, exported with the real weights: llama.cpp computes the distributions that transformers computes.

Outside CI: runs where requirements-peers.txt is installed (llama.cpp in prebuilt wheels, with its server). A minute or two.
"""

import json
import urllib.request
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from test_export_draft import save_grouped_llama, save_original
from transformers import AutoModelForCausalLM, AutoTokenizer

import export_draft
from specdec.adapters import load_adapter
from specdec.alignment import draft_probs
from specdec.backend import CachedModel
from specdec.files import read_jsonl
from specdec.models import PAIRS, load_model, load_tokenizer, prompt_token_ids
from specdec.provenance import is_header
from specdec.sampling import Settings
from specdec.vocabulary import named_tokens, vocabulary_map

xllamacpp = pytest.importorskip("xllamacpp")

ROOT = Path(__file__).resolve().parents[1]
PAIR = PAIRS["smollm2-qwen"]
PROMPTS = (
    "What screen reader works best for blind users?",
    "How do I turn on captions in a video call?",
    "Write a Python function that adds two numbers.",
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """final_adapter merged into SmolLM2, with both kinds of GGUF file in the folder."""
    from specdec.gguf_files import original_of, write_gguf

    folder = tmp_path_factory.mktemp("exported") / "dpo"
    model = export_draft.merged_draft(PAIR, ROOT / "final_adapter")
    original = original_of(PAIR.draft.id, PAIR.draft.gguf, None)

    def fill(work):
        model.save_pretrained(work)
        load_tokenizer(PAIR.draft).save_pretrained(work)
        for quantize in ("f16", "q8_0"):
            write_gguf(work / f"{quantize}.gguf", model, original, quantize, "a test's")

    export_draft.write_folder(folder, fill)
    return folder


def serve(folder: Path, name: str, draft: Path | None = None):
    params = xllamacpp.CommonParams()
    params.model.path = str(folder / name)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 2048, 1, 2  # on a free port of 127.0.0.1
    if draft:
        params.speculative.draft.mparams.path = str(draft)
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    return xllamacpp.Server(params)


def complete(server, ids: list[int], tokens: int) -> dict:
    """Greedy text of llama.cpp after `ids`, its tokens, and the ten likeliest at each position."""
    body = {"prompt": ids, "n_predict": tokens, "temperature": 0, "n_probs": 10, "return_tokens": True, "cache_prompt": False}
    request = urllib.request.Request(
        f"{server.listening_address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=900) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name, bound", [("f16.gguf", 0.01), ("q8_0.gguf", 0.1)])
def test_llama_cpp_computes_the_same_distributions(exported, name, bound):
    """Greedy, token by token: its likeliest is transformers' own, or one that transformers holds for as likely.

    `bound`: how far the probability of any of its ten likeliest tokens may be from that of transformers in float32.
    """
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    server = serve(exported, name)
    largest, agreed, count = 0.0, 0, 0
    for prompt in PROMPTS:
        ids = prompt_token_ids(tokenizer, prompt)
        answer = complete(server, ids, 24)
        assert answer["content"].strip() and len(answer["completion_probabilities"]) >= 10
        written = [position["id"] for position in answer["completion_probabilities"]]
        with torch.no_grad():
            probs = model(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1].softmax(-1)
        for q, position in zip(probs, answer["completion_probabilities"], strict=True):
            tops = {top["id"]: torch.tensor(top["logprob"]).exp() for top in position["top_logprobs"]}
            largest = max(largest, max(float((q[id] - found).abs()) for id, found in tops.items()))
            agreed += int(q.argmax()) == position["id"]
            count += 1
            assert q.max() - q[position["id"]] <= 2 * bound
    print(f"{name}: {agreed} of {count} likeliest tokens agree, largest difference of a probability {largest:.5f}")
    assert largest <= bound


def test_llama_cpp_drafts_with_the_file(exported):
    """--model-draft: Q8_0 drafts for F16, and the greedy text is that of F16 alone."""
    ids = prompt_token_ids(AutoTokenizer.from_pretrained(exported), PROMPTS[0])
    alone = complete(serve(exported, "f16.gguf"), ids, 32)
    drafted = complete(serve(exported, "f16.gguf", draft=exported / "q8_0.gguf"), ids, 32)
    print(drafted["timings"])
    assert drafted["content"] == alone["content"]
    assert drafted["timings"]["draft_n_accepted"] > 16


def test_llama_cpp_keeps_a_sampled_draft_by_our_rule(exported):
    """A draft that is nearly the verifier: its ten likeliest tokens hold most of p, and that share is kept.

    By llama.cpp's usual rule, the likeliest token where its own sample is the same, it would be Σ p · 1{x is the likeliest}.
    """
    from specdec import llama_cpp

    ids = prompt_token_ids(AutoTokenizer.from_pretrained(exported), PROMPTS[0])
    server = llama_cpp.start_server(exported / "f16.gguf", 512, 2, exported / "q8_0.gguf", 4)
    found = [llama_cpp.complete(server, ids, 48, 0.7, seed) for seed in range(4)]
    drafted, accepted = (sum(answer[name] for answer in found) for name in ("drafted", "accepted"))
    print(f"{accepted} of {drafted} accepted")
    assert accepted / drafted > 0.8


def test_llama_cpp_does_not_draft_across_vocabularies(exported, tmp_path):
    """What is printed of overlapping vocabularies: it goes on without the draft. A version that drafts fails here."""
    draft = save_grouped_llama(tmp_path / "tiny", tiny_tokenizer(300))
    server = serve(exported, "f16.gguf", draft=save_original(tmp_path / "tiny.gguf", draft, "llama"))
    answer = complete(server, prompt_token_ids(AutoTokenizer.from_pretrained(exported), PROMPTS[0]), 4)
    assert answer["content"] and "draft_n" not in answer["timings"]


def test_a_held_out_text_is_accepted_alike(exported):
    """|Σ min(p, q) − Σ min(p, q')| ≤ total variation of q and q', whatever p is: so no verifier has to be run.

    q: the draft as decoding merges it in bf16, at the positions of stored answers of the verifier to held-out prompts.
    """
    tokenizer, verifier_tokenizer = load_tokenizer(PAIR.draft), load_tokenizer(PAIR.verifier)
    shared, named = vocabulary_map(tokenizer, verifier_tokenizer), set(named_tokens(tokenizer).values())
    rows = [row for row in read_jsonl(ROOT / "studies/preference/results/answers.jsonl") if not is_header(row)]
    rows = [row for row in rows if row["domain"] == "at"][:3]
    assert len(rows) == 3

    def probs(model) -> torch.Tensor:
        draft, found = CachedModel(model.eval(), named, None), []
        for row in rows:
            prompt = prompt_token_ids(tokenizer, row["prompt"], template=verifier_tokenizer)
            answer = row["token_ids"][:100]
            with torch.no_grad():
                found.append(draft_probs(draft, shared, prompt, answer, 151936, Settings()))
        return torch.cat(found)

    def read(**options):
        return AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32, **options)

    def merged(dtype):
        return load_adapter(load_model(PAIR.draft, dtype=dtype), ROOT / "final_adapter", PAIR.draft.id)[0].float()

    decoded = probs(merged(torch.bfloat16))
    others = {
        "folder": read(),
        "F16": read(gguf_file="f16.gguf"),
        "Q8_0": read(gguf_file="q8_0.gguf"),
        "float32 sum": merged(torch.float32),
    }
    distances = {name: float((probs(model) - decoded).abs().sum(-1).mean() / 2) for name, model in others.items()}
    print({name: f"{value:.6f}" for name, value in distances.items()})
    assert distances["folder"] == 0
    assert distances["F16"] < 1e-4
    assert distances["Q8_0"] < 0.02
    assert distances["float32 sum"] < 0.02
